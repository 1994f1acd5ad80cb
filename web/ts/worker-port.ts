/** A worker's own end of the line, in browsers and in Node. */

/** What a worker talks through. */
export interface Port<In, Out> {
  post(message: Out, transfer?: ArrayBuffer[]): void;
  listen(heard: (message: In) => void): void;
  /** Lets messages that have come be heard. */
  pause(): Promise<void>;
}

interface WorkerScope {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: "message", heard: (event: { data: unknown }) => void): void;
}

/** The line to whoever made this worker. */
export function ownPort<In, Out>(): Port<In, Out> {
  const node = typeof WorkerGlobalScope === "undefined" ? builtin() : undefined;
  if (node) {
    const { parentPort } = node;
    if (!parentPort) throw new Error("this file is the inside of a worker");
    return {
      post: (message, transfer = []) => parentPort.postMessage(message, transfer),
      listen: (heard) => void parentPort.on("message", heard),
      pause: () => new Promise((done) => setImmediate(done)),
    };
  }
  const scope = globalThis as unknown as WorkerScope;
  // A message to oneself queues behind those that came before; timers would wait 4 ms.
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.onmessage = () => waiting.shift()?.();
  return {
    post: (message, transfer = []) => scope.postMessage(message, transfer),
    listen: (heard) => scope.addEventListener("message", (event) => heard(event.data as In)),
    pause: () =>
      new Promise((done) => {
        waiting.push(done);
        port2.postMessage(0);
      }),
  };
}

declare const WorkerGlobalScope: unknown;

function builtin(): typeof import("node:worker_threads") | undefined {
  return typeof process === "object" ? process.getBuiltinModule?.("node:worker_threads") : undefined;
}
