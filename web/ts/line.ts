/**
 * Making workers, and the page's end of the line to one, in browsers and in Node.
 *
 * Every worker and every module of WebAssembly is named by a literal `new URL(..., import.meta.url)`, which is the form
 * that bundlers look for; so they need no settings.
 */
import type { Variant } from "./variant.js";
import { isNode } from "./variant.js";

/** The line to a worker. */
export interface Line<Out> {
  post(message: Out, transfer?: ArrayBuffer[]): void;
  terminate(): void;
  /** Node: whether this worker keeps the process alive. */
  hold(alive: boolean): void;
}

/** Who hears what comes. */
export interface Listener<In> {
  message(message: In): void;
  /** The worker failed: its script did not load, or it ended by itself. */
  failed(reason: string): void;
}

/** The inside of a model's worker, or one of its threads. */
export type Role = "engine" | "pool";

/** A new worker. */
export async function connect<Out, In>(variant: Variant, role: Role, listener: Listener<In>): Promise<Line<Out>> {
  const name = role === "pool" ? `${variant}-pool` : variant;
  if (isNode) {
    const { spawn } = await import("./node.js");
    return spawn(new URL(`worker/${name}.js`, here), listener);
  }
  const worker = start(variant, role, name);
  worker.onmessage = (event: MessageEvent<In>) => listener.message(event.data);
  worker.onerror = (event) => {
    event.preventDefault();
    listener.failed(event.message || "its script could not be loaded");
  };
  worker.onmessageerror = () => listener.failed("a message to it could not be read");
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    terminate: () => worker.terminate(),
    hold: () => undefined,
  };
}

/** This file's address, not as a literal: what is made from it is for unbundled use alone. */
const here: string = import.meta.url;

function start(variant: Variant, role: Role, name: string): Worker {
  try {
    return role === "pool" ? poolWorker(variant) : engineWorker(variant);
  } catch (error) {
    // Workers must come from the page's own origin; a module of a few words may import the script from another, such as
    // a content delivery network.
    const remote = new URL(`worker/${name}.js`, here).href;
    if (!remote.startsWith("http") || new URL(remote).origin === globalThis.location?.origin) throw error;
    const words = new Blob([`import ${JSON.stringify(remote)};`], { type: "text/javascript" });
    return new Worker(URL.createObjectURL(words), { type: "module" });
  }
}

function engineWorker(variant: Variant): Worker {
  switch (variant) {
    case "relaxed-threads":
      return new Worker(new URL("./worker/relaxed-threads.js", import.meta.url), { type: "module" });
    case "simd128-threads":
      return new Worker(new URL("./worker/simd128-threads.js", import.meta.url), { type: "module" });
    case "relaxed":
      return new Worker(new URL("./worker/relaxed.js", import.meta.url), { type: "module" });
    case "simd128":
      return new Worker(new URL("./worker/simd128.js", import.meta.url), { type: "module" });
    case "small-relaxed":
      return new Worker(new URL("./worker/small-relaxed.js", import.meta.url), { type: "module" });
    case "small-simd128":
      return new Worker(new URL("./worker/small-simd128.js", import.meta.url), { type: "module" });
  }
}

function poolWorker(variant: Variant): Worker {
  return variant === "relaxed-threads"
    ? new Worker(new URL("./worker/relaxed-threads-pool.js", import.meta.url), { type: "module" })
    : new Worker(new URL("./worker/simd128-threads-pool.js", import.meta.url), { type: "module" });
}

const modules = new Map<Variant, Promise<WebAssembly.Module>>();

/** A build, compiled once for all models of the page. */
export function compiled(variant: Variant): Promise<WebAssembly.Module> {
  let module = modules.get(variant);
  if (!module) {
    module = compile(wasm(variant));
    modules.set(variant, module);
    module.catch(() => modules.delete(variant));
  }
  return module;
}

async function compile(url: URL): Promise<WebAssembly.Module> {
  if (isNode) {
    const { bytesOf } = await import("./node.js");
    return WebAssembly.compile(await bytesOf(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.href}: the server answered ${response.status}`);
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("text/html")) {
    const hint = 'with vite before 8, its development server needs optimizeDeps: { exclude: ["sterna"] }';
    throw new Error(`${url.href} is a page, not WebAssembly; ${hint}`);
  }
  // Compiling while it comes takes the right type, which not every host sends.
  return type.startsWith("application/wasm")
    ? WebAssembly.compileStreaming(response)
    : WebAssembly.compile(await response.arrayBuffer());
}

function wasm(variant: Variant): URL {
  switch (variant) {
    case "relaxed-threads":
      return new URL("./wasm/relaxed-threads/sterna_bg.wasm", import.meta.url);
    case "simd128-threads":
      return new URL("./wasm/simd128-threads/sterna_bg.wasm", import.meta.url);
    case "relaxed":
      return new URL("./wasm/relaxed/sterna_bg.wasm", import.meta.url);
    case "simd128":
      return new URL("./wasm/simd128/sterna_bg.wasm", import.meta.url);
    case "small-relaxed":
      return new URL("./wasm/small-relaxed/sterna_bg.wasm", import.meta.url);
    case "small-simd128":
      return new URL("./wasm/small-simd128/sterna_bg.wasm", import.meta.url);
  }
}
