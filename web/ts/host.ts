/**
 * The page's side of an engine worker: starts it with the best build that works here, makes its pool of threads, speaks
 * the protocol, notices when it dies. Not here: where a model's bytes come from (load.ts), what users see (model.ts).
 */
import { messageOf, SternaError } from "./errors.js";
import type { PlainError } from "./errors.js";
import { compiled, connect } from "./line.js";
import type { Line } from "./line.js";
import type {
  Bytes,
  FromPool,
  FromWorker,
  Give,
  Op,
  Pieces,
  Prompt,
  Results,
  StartOptions,
  Stats,
  StoreRequest,
  ToPool,
  ToWorker,
} from "./protocol.js";
import { candidates, defaultThreads } from "./variant.js";
import type { Variant, Wishes } from "./variant.js";

/** Bytes on their way to the worker, beyond which the download has to wait. */
const WINDOW = 8 << 20;
/** Batches that a generation may be ahead of its reader. */
const AHEAD = 2;
/** Milliseconds after which a pool of threads that is not there never comes. */
const POOL_PATIENCE = 10_000;

/** A batch of a generation. */
export interface Batch {
  pieces: Pieces;
  stats: Stats;
}

/** A generation as it comes from the worker. */
export interface Stream {
  /** The next batch; undefined when `result` is there. */
  next(): Promise<Batch | undefined>;
  /** The batch has been read: another may come. */
  credit(): void;
  /** Ends it: the worker stops, and a `next` that waits throws `error`. */
  cancel(error?: SternaError): void;
  readonly result: Results["generate"] | undefined;
}

/** What a worker says of the model that it has. */
export interface Loaded {
  card: string;
  context: number | undefined;
}

interface Call {
  pieces?(batch: Batch): void;
  done(value: Results[keyof Results]): void;
  failed(error: Error): void;
}

/** An engine worker and its pool. */
export class Host {
  /** Settles when the worker is gone. */
  readonly closed: Promise<void>;
  /** Threads that compute. */
  threads = 1;
  /** Better builds that did not start, and why. */
  notes: string[] = [];
  /** Hears a model's card as soon as its header is complete. */
  onCard: ((card: string) => void) | undefined;
  /** Hears of the worker's death. */
  onEnd: ((error: SternaError) => void) | undefined;

  #line: Line<ToWorker> | undefined;
  readonly #pool: Line<ToPool>[] = [];
  readonly #calls = new Map<number, Call>();
  #ids = 0;
  #pending = 0;
  #inFlight = 0;
  /** A header that is read ahead is incomplete. */
  #ahead = false;
  /** Called when bytes have been taken, the load is done, or all is over. */
  #moved: (() => void) | undefined;
  #ready: ((threads: number) => void) | undefined;
  #loaded: Loaded | undefined;
  #error: SternaError | undefined;
  #close: () => void = () => undefined;

  private constructor(readonly variant: Variant) {
    this.closed = new Promise((close) => {
      this.#close = close;
    });
  }

  /** An engine with the first build that starts. */
  static async start(wishes: Wishes, signal: AbortSignal): Promise<Host> {
    const threads = wishes.threads ?? defaultThreads();
    const list = candidates(wishes);
    const notes: string[] = [];
    let reason: unknown;
    for (const variant of list) {
      const host = new Host(variant);
      const abort = (): void => host.close();
      signal.addEventListener("abort", abort);
      try {
        await host.#start(variant.endsWith("-threads") ? threads : 1);
        host.notes = notes;
        return host;
      } catch (error) {
        host.close();
        reason ??= error;
        notes.push(`the build ${variant} did not start: ${messageOf(error)}`);
        if (signal.aborted) break;
      } finally {
        signal.removeEventListener("abort", abort);
      }
    }
    if (reason instanceof SternaError) throw reason;
    throw new SternaError("crashed", `the engine did not start: ${messageOf(reason)}`, { cause: reason });
  }

  async #start(threads: number): Promise<void> {
    const line = connect<ToWorker, FromWorker>(this.variant, "engine", {
      message: (message) => this.#hear(message),
      failed: (why) => this.#fail({ code: "crashed", message: `the engine worker failed: ${why}` }),
    });
    // Both may take a while, so they go side by side.
    const [worker, module] = await Promise.allSettled([line, compiled(this.variant)]);
    if (worker.status === "rejected") throw worker.reason;
    this.#line = worker.value;
    if (this.#error) {
      this.#line.terminate();
      throw this.#error;
    }
    if (module.status === "rejected") throw module.reason;
    const ready = new Promise<number>((resolve) => {
      this.#ready = resolve;
    });
    this.#line.post({ type: "init", module: module.value, threads });
    const count = await Promise.race([ready, this.closed]);
    if (count === undefined) throw this.#error ?? new SternaError("crashed", "the engine ended");
    this.threads = count;
    this.#line.hold(false);
  }

  /** Begins a model of `length` bytes, if that is known. */
  open(options: {
    length: number | undefined;
    kernel: string | undefined;
    context: number | undefined;
    store: StoreRequest | undefined;
  }): void {
    this.#post({ type: "open", ...options });
  }

  /** Reads the header of a split model's later part, of `length` bytes if that is known. */
  async readAhead(length: number | undefined, chunks: AsyncIterable<Bytes>): Promise<void> {
    this.#check();
    this.#ahead = true;
    this.#post({ type: "ahead", length });
    for await (const chunk of chunks) {
      await this.push(chunk);
      await this.drain();
      if (!this.#ahead) return;
    }
    throw new SternaError("truncated", "the file ends within its header; download or copy it again");
  }

  /** Waits until the worker has taken all bytes. */
  async drain(): Promise<void> {
    while (this.#inFlight > 0 && !this.#error) await this.#move();
    this.#check();
  }

  /** A part of a split model has ended, the next begins. */
  part(length: number | undefined, store: StoreRequest | undefined): void {
    this.#check();
    this.#post({ type: "part", length, store });
  }

  /** Gives the worker the next bytes, which it takes over; waits while it has enough to do. */
  async push(bytes: Bytes): Promise<void> {
    this.#check();
    this.#inFlight += bytes.byteLength;
    this.#post({ type: "chunk", bytes }, [bytes.buffer]);
    while (this.#inFlight > WINDOW && !this.#error) await this.#move();
    this.#check();
  }

  /** All bytes are there. Gives the model's card, and the tokens that fit into its context. */
  async finish(): Promise<Loaded> {
    this.#check();
    this.#post({ type: "finish" });
    for (;;) {
      this.#check();
      if (this.#loaded) return this.#loaded;
      await this.#move();
    }
  }

  /** A call that gives one value. */
  call<K extends Exclude<Op["op"], "generate">>(op: Extract<Op, { op: K }>): Promise<Results[K]> {
    return this.#held(
      new Promise((resolve, reject) => {
        this.#call(op, { done: (value) => resolve(value as Results[K]), failed: reject });
      }),
    );
  }

  /** A call that writes text. */
  generate(prompt: Prompt, options: StartOptions, give: Give): Stream {
    const batches: Batch[] = [];
    let result: Results["generate"] | undefined;
    let error: Error | undefined;
    let over = false;
    let wake: () => void = () => undefined;
    const stop = (why?: Error): void => {
      over = true;
      error ??= why;
      wake();
    };
    const op: Op = { op: "generate", prompt, options, give, credits: AHEAD };
    const id = this.#call(op, {
      pieces: (batch) => {
        batches.push(batch);
        wake();
      },
      done: (value) => {
        result = value as Results["generate"];
        stop();
      },
      failed: stop,
    });
    const next = async (): Promise<Batch | undefined> => {
      while (batches.length === 0 && !over) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      const batch = batches.shift();
      if (!batch && error) throw error;
      return batch;
    };
    return {
      next: () => this.#held(next()),
      credit: () => {
        if (!over) this.#post({ type: "credit", id });
      },
      cancel: (why) => {
        if (over) return;
        this.#calls.delete(id);
        batches.length = 0;
        stop(why);
        this.#post({ type: "cancel", id });
      },
      get result() {
        return result;
      },
    };
  }

  /** Ends worker and pool; what waits fails with `error`. */
  close(error = new SternaError("closed", "the model has been freed")): void {
    if (this.#error) return;
    this.#error = error;
    this.#line?.terminate();
    for (const line of this.#pool) line.terminate();
    for (const call of this.#calls.values()) call.failed(error);
    this.#calls.clear();
    this.#moved?.();
    this.#close();
    this.onEnd?.(error);
  }

  #call(op: Op, call: Call): number {
    const id = ++this.#ids;
    if (this.#error) {
      call.failed(this.#error);
    } else {
      this.#calls.set(id, call);
      this.#post({ type: "call", id, op });
    }
    return id;
  }

  /** Keeps Node's process alive for as long as somebody waits. */
  async #held<T>(promise: Promise<T>): Promise<T> {
    if (this.#pending++ === 0) this.#line?.hold(true);
    try {
      return await promise;
    } finally {
      if (--this.#pending === 0) this.#line?.hold(false);
    }
  }

  #move(): Promise<void> {
    return this.#held(
      new Promise((resolve) => {
        this.#moved = resolve;
      }),
    );
  }

  #check(): void {
    if (this.#error) throw this.#error;
  }

  #post(message: ToWorker, transfer?: ArrayBuffer[]): void {
    if (!this.#error) this.#line?.post(message, transfer);
  }

  #fail({ code, message }: PlainError): void {
    this.close(new SternaError(code, message));
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case "ready":
        this.#ready?.(message.threads);
        return;
      case "pool":
        void this.#makePool(message);
        return;
      case "ack":
        this.#inFlight -= message.bytes;
        this.#ahead = message.ahead ?? false;
        this.#moved?.();
        return;
      case "card":
        this.onCard?.(message.card);
        return;
      case "loaded":
        this.#loaded = message;
        this.#moved?.();
        return;
      case "pieces":
        this.#calls.get(message.id)?.pieces?.({ pieces: message.pieces, stats: message.stats });
        return;
      case "result":
      case "error": {
        const call = this.#calls.get(message.id);
        this.#calls.delete(message.id);
        if (message.type === "result") call?.done(message.value);
        else call?.failed(new SternaError(message.error.code, message.error.message));
        return;
      }
      case "fatal":
        this.#fail(message.error);
        return;
    }
  }

  /** The page makes the pool's workers: those that a worker makes hang now and then in Firefox. */
  async #makePool({ threads, module, memory, receiver }: Extract<FromWorker, { type: "pool" }>): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("its threads did not start in time")), POOL_PATIENCE);
    });
    const one = async (): Promise<void> => {
      let started: () => void = () => undefined;
      const ready = new Promise<void>((resolve) => {
        started = resolve;
      });
      const line = await connect<ToPool, FromPool>(this.variant, "pool", {
        message: (message) => (message.type === "ready" ? started() : this.#fail(message.error)),
        failed: (why) => this.#fail({ code: "crashed", message: `a thread of the engine failed: ${why}` }),
      });
      this.#pool.push(line);
      if (this.#error) line.terminate();
      line.hold(false);
      line.post({ module, memory, receiver });
      await ready;
    };
    try {
      await Promise.race([Promise.all(Array.from({ length: threads }, one)), late]);
      this.#post({ type: "pool", error: undefined });
    } catch (error) {
      this.#fail({ code: "crashed", message: `the engine did not start: ${messageOf(error)}` });
    } finally {
      clearTimeout(timer);
    }
  }
}
