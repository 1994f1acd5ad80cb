/** A loaded model, as users have it. */
/// <reference lib="esnext.disposable" preserve="true" />
import { Chat } from "./chat.js";
import type { ChatMessage, ChatOptions } from "./chat.js";
import { greyOf } from "./drawing.js";
import type { Drawing } from "./drawing.js";
import { aborted, invalid } from "./errors.js";
import { Generation, startOptions } from "./generation.js";
import type { GenerateOptions } from "./generation.js";
import type { Host } from "./host.js";

/** What a file says about its model, and how it was packed. */
export interface ModelCard {
  /** The family, as in `general.architecture`: `llama`, `bitnet`, `sterna-image`, ... */
  architecture: string;
  /** What its makers call it, or the architecture's name. */
  name: string;
  /** What its makers say of it. */
  description?: string;
  /** Its licence, as the file has it. */
  license?: string;
  /** A model of text, or a classifier of images. */
  kind: "text" | "image";
  /** How many numbers it has. */
  parameters: number;
  /** Size of the file in bytes, where that is known. */
  fileBytes?: number;
  /** Bytes of the packed weights in memory. */
  packedBytes: number;
  /** Bits that the file spends on a parameter. */
  bitsPerWeight: number;
  /** The format of most weights, as `TQ2_0`. */
  quantization: string;
  /** Bytes in the file by format. */
  formats: Record<string, number>;
  /** Tokens that it was trained to see at once. */
  contextLength?: number;
  /** Number of different tokens. */
  vocabulary?: number;
  /** Numbers for each token between layers. */
  embeddingLength?: number;
  /** Number of layers (blocks). */
  layers?: number;
  /** Whether it takes text, or only token ids. */
  hasTokenizer: boolean;
  /** Whether the file brings a chat template of its own. */
  hasChatTemplate: boolean;
  /** The kernel that computes: `relaxed-simd`, `simd128` or `scalar`. */
  kernel: string;
  /** Threads that compute. */
  threads: number;
  /** The images that a classifier takes, in pixels, the names of its classes, and whether it wants drawings centred. */
  image?: { width: number; height: number; channels: number; classes: string[]; centred: boolean };
  /** What is odd about the file, and which faster builds did not start here, in words. */
  warnings: string[];
}

/** A loaded model's card. */
export interface ModelInfo extends ModelCard {
  /** Tokens that fit into this model's context as it was loaded; absent for classifiers. */
  context?: number;
  /** The build in use: a folder of `dist/wasm/`. */
  variant: string;
  /** Seconds from the call of `load` until the model was ready. */
  loadSeconds: number;
}

/** What a classifier says about an image. */
export interface Classification {
  /** The most likely class, from 0. */
  label: number;
  /** Of each class; they add up to 1. */
  probabilities: Float32Array;
  /** What it took to compute. */
  seconds: number;
}

/** Options of calls that do nothing but wait their turn. */
export interface CallOptions {
  /** The call throws `aborted` when it fires; the worker finishes what it has begun. */
  signal?: AbortSignal;
}

/** How text becomes tokens. */
export interface TokenizeOptions extends CallOptions {
  /** Adds the tokens that begin or end a text, where the model has such; false if not given. */
  addSpecial?: boolean;
  /** Takes names of special tokens in the text for those tokens; false if not given. */
  parseSpecial?: boolean;
}

/** How tokens become text. */
export interface DetokenizeOptions extends CallOptions {
  /** False: special tokens are written out by name. */
  skipSpecial?: boolean;
}

/** Ends the workers of models that were dropped without `free`. */
const dropped = new FinalizationRegistry<Host>((host) => host.close());

/** A model in a worker of its own. Calls are done one after the other. */
export class Model {
  /** What the file says, and how it runs here. */
  readonly info: ModelInfo;
  /** Settles when the worker is gone: after `free`, or when it crashed. */
  readonly closed: Promise<void>;
  readonly #host: Host;

  private constructor(host: Host, info: ModelInfo) {
    this.#host = host;
    this.info = info;
    this.closed = host.closed;
    dropped.register(this, host, this);
  }

  /** @internal */
  static own(host: Host, card: ModelCard, details: Pick<ModelInfo, "context" | "loadSeconds">): Model {
    const warnings = [...card.warnings, ...host.notes];
    return new Model(host, { ...card, warnings, variant: host.variant, threads: host.threads, ...details });
  }

  /**
   * Continues a text, or token ids. Nothing happens until the result is read: as an async iterable of pieces of text
   * (`for await`), whole with `text()`, or as token ids with `ids()`. The worker stops when the loop is left.
   *
   * What a prompt has in common with the one before is not computed again.
   */
  generate(prompt: string | Uint32Array | readonly number[], options: GenerateOptions = {}): Generation {
    const begin = typeof prompt === "string" ? { text: prompt } : { tokens: ids(prompt) };
    return new Generation(this, this.#host, begin, startOptions(options), options.signal);
  }

  /**
   * Answers a conversation, through the model's chat template. Read it as an async iterable of chunks in the shape of
   * OpenAI's `chat.completion.chunk`, or whole with `text()`.
   */
  chat(messages: readonly ChatMessage[], options: ChatOptions = {}): Chat {
    return new Chat(this, this.#host, messages, options);
  }

  /**
   * Classifies an image: one byte for each channel of each pixel, row by row, of the size in `info.image`; for digits
   * 28 x 28 with 255 for full ink, centred as MNIST's are (`classifyDrawing` does that).
   */
  async classify(
    pixels: Uint8Array | Uint8ClampedArray | readonly number[],
    options: CallOptions = {},
  ): Promise<Classification> {
    const call = this.#host.call({ op: "classify", pixels: bytes(pixels) });
    return classified(await until(call, options.signal, "the classification"));
  }

  /**
   * Classifies a drawing of any size: grey pixels, or RGBA as canvases have them. It is cut out, scaled and centred as
   * the images were that the model was trained on; `seen` is what it then looked at, `[28, 28]` with 255 for full ink.
   */
  async classifyDrawing(drawing: Drawing, options: CallOptions = {}): Promise<Classification & { seen: Uint8Array }> {
    const call = this.#host.call({ op: "drawing", canvas: greyOf(drawing) });
    const value = await until(call, options.signal, "the classification");
    return { ...classified(value), seen: value.seen };
  }

  /** The tokens of a text. */
  async tokenize(text: string, options: TokenizeOptions = {}): Promise<Uint32Array> {
    if (typeof text !== "string") invalid("tokenize takes a text");
    const { addSpecial = false, parseSpecial = false, signal } = options;
    return until(this.#host.call({ op: "encode", text, addSpecial, parseSpecial }), signal, "the call");
  }

  /** The text of tokens. */
  async detokenize(tokens: Uint32Array | readonly number[], options: DetokenizeOptions = {}): Promise<string> {
    const { skipSpecial = true, signal } = options;
    return until(this.#host.call({ op: "decode", ids: ids(tokens), skipSpecial }), signal, "the call");
  }

  /** The file's metadata by key; long arrays are left out. */
  async metadata(options: CallOptions = {}): Promise<Record<string, unknown>> {
    const text = await until(this.#host.call({ op: "metadata" }), options.signal, "the call");
    return JSON.parse(text) as Record<string, unknown>;
  }

  /** Memory in bytes: `used` by packed weights and the KV cache, `reserved` by the worker's WebAssembly in all. */
  async memory(options: CallOptions = {}): Promise<{ used: number; reserved: number }> {
    return until(this.#host.call({ op: "memory" }), options.signal, "the call");
  }

  /** Ends the worker and gives its memory back. What still waits throws `closed`. May be called again. */
  free(): void {
    dropped.unregister(this);
    this.#host.close();
  }

  /** `free`, for `using`. */
  declare [Symbol.dispose]: () => void;
}

// Engines that have no Symbol.dispose yet get it from whoever compiled `using`, under this name.
Object.defineProperty(Model.prototype, Symbol.dispose ?? Symbol.for("Symbol.dispose"), {
  value(this: Model) {
    this.free();
  },
});

function classified(value: { probabilities: Float32Array; seconds: number }): Classification {
  const { probabilities, seconds } = value;
  return { label: probabilities.indexOf(Math.max(...probabilities)), probabilities, seconds };
}

/** Waits, but no longer than until the signal fires. */
async function until<T>(call: Promise<T>, signal: AbortSignal | undefined, what: string): Promise<T> {
  if (!signal) return call;
  let fired: () => void = () => undefined;
  const abort = new Promise<never>((_, reject) => {
    fired = () => reject(aborted(signal, what));
    if (signal.aborted) fired();
    signal.addEventListener("abort", fired);
  });
  call.catch(() => undefined);
  try {
    return await Promise.race([call, abort]);
  } finally {
    signal.removeEventListener("abort", fired);
  }
}

function ids(tokens: Uint32Array | readonly number[]): Uint32Array {
  if (tokens instanceof Uint32Array) return tokens;
  const fine = Array.isArray(tokens) && tokens.every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 32);
  return fine ? Uint32Array.from(tokens) : invalid("tokens must be a Uint32Array or a list of whole numbers");
}

function bytes(pixels: Uint8Array | Uint8ClampedArray | readonly number[]): Uint8Array {
  if (pixels instanceof Uint8Array || pixels instanceof Uint8ClampedArray) return new Uint8Array(pixels);
  const fine = Array.isArray(pixels) && pixels.every((value) => Number.isInteger(value) && value >= 0 && value <= 255);
  return fine ? Uint8Array.from(pixels) : invalid("pixels must be bytes: whole numbers from 0 to 255");
}
