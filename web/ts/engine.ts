/**
 * The inside of an engine worker: one model, one queue of calls.
 *
 * Messages are heard whenever the worker pauses: between chunks of a file, pieces of a prompt and batches of a
 * generation. `credit` and `cancel` take effect then; everything else waits for its turn. Not here: where bytes come
 * from (load.ts), who made the worker (host.ts).
 */
import { plain, SternaError } from "./errors.js";
import type { SternaErrorCode } from "./errors.js";
import type { FinishReason } from "./generation.js";
import type { Glue, GlueLoader, GlueModel } from "./glue.js";
import type { FromWorker, Op, Pieces, Prompt, Results, Stats, ToWorker } from "./protocol.js";
import { Store } from "./store.js";
import { ownPort } from "./worker-port.js";
import type { Port } from "./worker-port.js";

/** A batch of a generation ends when it has taken so many milliseconds: a frame of a screen. */
const BATCH = 16;
/** A memory of so many bytes has nowhere to grow: WebAssembly's limit is 4 GiB. */
const FULL = 3.75 * 2 ** 30;

/** Makes this worker an engine that computes with `glue`. */
export function serve(glue: Glue): void {
  new Engine(glue, ownPort());
}

/** A worker's state. Exported for tests, which give it a glue and a port of their own. */
export class Engine {
  readonly #glue: Glue;
  readonly #port: Port<ToWorker, FromWorker>;
  /** What has not had its turn. */
  readonly #queue: ToWorker[] = [];
  #running = false;
  #dead = false;
  /** Batches that a call may still send, by call. Those without an entry were cancelled or are done. */
  readonly #credits = new Map<number, number>();
  /** Wakes the call that waits for a credit. */
  #wake: (() => void) | undefined;
  #memory: WebAssembly.Memory | undefined;
  #loader: GlueLoader | undefined;
  #cardSent = false;
  #store: Store | undefined;
  #model: GlueModel | undefined;
  /** Settles when the page has made the pool's workers. */
  #pool: { resolve(): void; reject(error: Error): void } | undefined;

  constructor(glue: Glue, port: Port<ToWorker, FromWorker>) {
    this.#glue = glue;
    this.#port = port;
    port.listen((message) => this.#hear(message));
  }

  #hear(message: ToWorker): void {
    switch (message.type) {
      case "credit": {
        const credits = this.#credits.get(message.id);
        if (credits !== undefined) this.#credits.set(message.id, credits + 1);
        this.#wake?.();
        return;
      }
      case "cancel":
        this.#credits.delete(message.id);
        this.#wake?.();
        return;
      case "pool":
        if (message.error === undefined) this.#pool?.resolve();
        else this.#pool?.reject(new SternaError("crashed", message.error));
        return;
      case "call":
        this.#credits.set(message.id, message.op.op === "generate" ? message.op.credits : 1);
        break;
      default:
    }
    this.#queue.push(message);
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (let message = this.#queue.shift(); message && !this.#dead; message = this.#queue.shift()) {
      try {
        await this.#handle(message);
      } catch (error) {
        this.#die(error);
      }
    }
    this.#running = false;
  }

  async #handle(message: ToWorker): Promise<void> {
    switch (message.type) {
      case "init":
        return this.#init(message.module, message.threads);
      case "open":
        this.#loader = new this.#glue.Loader(message.length, message.kernel, message.context);
        if (message.store) this.#store = await Store.open(message.store);
        return;
      case "ahead":
        this.#loader?.ahead(message.length);
        return;
      case "part":
        return this.#part(message);
      case "chunk":
        return this.#chunk(message.bytes);
      case "finish":
        return this.#finish();
      case "call":
        return this.#call(message.id, message.op);
      default:
    }
  }

  async #init(module: WebAssembly.Module, threads: number): Promise<void> {
    const { memory } = await this.#glue.default({ module_or_path: module });
    this.#memory = memory;
    if (threads > 1 && this.#glue.initThreadPool) {
      // Asked by web/pool.js, in the place of wasm-bindgen-rayon's own way of making workers inside of this one.
      (globalThis as { sternaPool?: unknown }).sternaPool = {
        start: (count: number, module: WebAssembly.Module, memory: WebAssembly.Memory, receiver: number) =>
          new Promise<void>((resolve, reject) => {
            this.#pool = { resolve, reject };
            this.#port.post({ type: "pool", threads: count, module, memory, receiver });
          }),
      };
      await this.#glue.initThreadPool(threads);
    }
    this.#port.post({ type: "ready", threads: this.#glue.threads() });
  }

  /** A part that is whole counts, also when a later one fails. */
  async #part({ length, store }: Extract<ToWorker, { type: "part" }>): Promise<void> {
    try {
      this.#loader?.part(length);
    } catch (error) {
      await this.#store?.discard();
      throw error;
    }
    await this.#store?.commit();
    this.#store = store && (await Store.open(store));
  }

  async #chunk(bytes: Uint8Array): Promise<void> {
    const ahead = this.#loader?.readsAhead ?? false;
    try {
      this.#loader?.push(bytes);
    } catch (error) {
      await this.#store?.discard();
      throw error;
    }
    // What is read ahead comes again with its part.
    if (!ahead) this.#store?.write(bytes);
    this.#sendCard();
    this.#port.post({ type: "ack", bytes: bytes.byteLength, ...(this.#loader?.readsAhead && { ahead: true }) });
  }

  #sendCard(): void {
    if (this.#cardSent) return;
    const card = this.#loader?.card();
    if (card === undefined) return;
    this.#cardSent = true;
    this.#port.post({ type: "card", card });
  }

  async #finish(): Promise<void> {
    const loader = this.#loader;
    if (!loader) throw new SternaError("crashed", "a load ended that had not begun");
    this.#loader = undefined;
    try {
      this.#model = loader.finish();
    } catch (error) {
      await this.#store?.discard();
      throw error;
    }
    await this.#store?.commit();
    this.#store = undefined;
    const context = this.#model.kind === "text" ? this.#model.context : undefined;
    this.#port.post({ type: "loaded", card: this.#model.card(), context });
  }

  async #call(id: number, op: Op): Promise<void> {
    if (!this.#credits.has(id)) return;
    try {
      const value = op.op === "generate" ? await this.#generate(id, op) : this.#simple(op);
      if (value !== undefined && this.#credits.has(id)) this.#port.post({ type: "result", id, value });
    } catch (error) {
      if (isTrap(error)) throw error;
      this.#port.post({ type: "error", id, error: plain(error, "crashed") });
    } finally {
      this.#credits.delete(id);
    }
  }

  #simple(op: Exclude<Op, { op: "generate" }>): Results[keyof Results] {
    switch (op.op) {
      case "kernels":
        return this.#glue.kernels();
      case "bench":
        return this.#bench(op);
      case "classify":
        return this.#classify(op.pixels);
      case "drawing": {
        const { grey, width, height, dark } = op.canvas;
        const seen = this.#glue.centre(grey, width, height, dark);
        return { ...this.#classify(seen), seen };
      }
      case "encode":
        return this.#loaded().encode(op.text, op.addSpecial, op.parseSpecial);
      case "decode":
        return this.#loaded().decode(op.ids, op.skipSpecial);
      case "metadata":
        return this.#loaded().metadata();
      case "memory":
        return { used: this.#loaded().memory(), reserved: this.#memory?.buffer.byteLength ?? 0 };
    }
  }

  #classify(pixels: Uint8Array): Results["classify"] {
    const model = this.#loaded();
    const started = performance.now();
    const probabilities = model.classify(pixels);
    return { probabilities, seconds: (performance.now() - started) / 1000 };
  }

  /** Doubles the number of iterations until they take as long as they should. */
  #bench(op: Extract<Op, { op: "bench" }>): Results["bench"] {
    for (let iterations = 1; ; iterations *= 2) {
      const seconds = this.#glue.benchKernel(op.kernel, op.rows, op.cols, op.tokens, iterations);
      if (seconds >= op.seconds || iterations >= 2 ** 24) return { seconds, iterations };
    }
  }

  /** Gives undefined when it was cancelled. */
  async #generate(id: number, op: Extract<Op, { op: "generate" }>): Promise<Results["generate"] | undefined> {
    const model = this.#loaded();
    const clock = stopwatch();
    const stats: Stats = {
      promptTokens: 0,
      cachedTokens: 0,
      tokens: 0,
      promptSeconds: 0,
      secondsToFirst: 0,
      seconds: 0,
    };
    stats.promptTokens = begin(model, op.prompt);
    stats.cachedTokens = model.cached;
    while (!model.prefill()) {
      await this.#port.pause();
      if (!this.#credits.has(id)) return undefined;
    }
    stats.promptSeconds = clock();
    model.start(JSON.stringify(op.options));

    for (let ended = false, first = true; !ended;) {
      const pieces: Pieces = [];
      const until = performance.now() + BATCH;
      // The first piece goes out at once.
      do {
        const piece = op.give === "ids" ? model.nextToken() : model.next();
        if (piece === undefined) ended = true;
        else if (piece !== "") pieces.push(piece);
      } while (!ended && performance.now() < until && !(first && pieces.length > 0));
      stats.tokens = model.drawn;
      stats.seconds = clock();
      if (first && pieces.length > 0) {
        stats.secondsToFirst = stats.seconds;
        first = false;
      }
      if (pieces.length > 0) {
        this.#port.post({ type: "pieces", id, pieces, stats: { ...stats } });
        const credits = this.#credits.get(id);
        if (credits !== undefined) this.#credits.set(id, credits - 1);
      }
      if (!ended) await this.#port.pause();
      while (!ended && (this.#credits.get(id) ?? 1) <= 0) {
        await new Promise<void>((wake) => {
          this.#wake = wake;
        });
      }
      if (!this.#credits.has(id)) return undefined;
    }
    return { finish: finishOf(model.finish), stats };
  }

  #loaded(): GlueModel {
    if (!this.#model) throw new SternaError("closed", "no model is loaded");
    return this.#model;
  }

  /** The worker can do no more: what was thrown came while loading, or broke the module. */
  #die(error: unknown): void {
    this.#dead = true;
    const said = plain(error, codeOf(error));
    if (isTrap(error)) {
      const full = (this.#memory?.buffer.byteLength ?? 0) >= FULL;
      said.code = full ? "out-of-memory" : said.code;
      said.message = full
        ? "the model and its cache need more than the 4 GiB that WebAssembly has"
        : `the engine broke down: ${panic() ?? said.message}`;
    }
    this.#port.post({ type: "fatal", error: said });
  }
}

function begin(model: GlueModel, prompt: Prompt): number {
  if ("text" in prompt) return model.prompt(prompt.text);
  if ("tokens" in prompt) return model.promptTokens(prompt.tokens);
  return model.promptChat(prompt.messages, prompt.extras);
}

function finishOf(word: string | undefined): FinishReason | undefined {
  return word === "stop" || word === "length" || word === "context" ? word : undefined;
}

/** After a trap nothing in the module's memory can be trusted. */
function isTrap(error: unknown): boolean {
  return error instanceof WebAssembly.RuntimeError;
}

/** The code of an error that brought none. */
function codeOf(error: unknown): SternaErrorCode {
  return error instanceof RangeError ? "out-of-memory" : "crashed";
}

/** What Rust said before it trapped, set by web/src. */
function panic(): string | undefined {
  const { sternaPanic } = globalThis as { sternaPanic?: unknown };
  return typeof sternaPanic === "string" ? sternaPanic : undefined;
}

/** Seconds since now. */
function stopwatch(): () => number {
  const started = performance.now();
  return () => (performance.now() - started) / 1000;
}
