/**
 * What the page (or Node's main thread) and the engine worker say to each other.
 *
 * A worker holds one model. Its life: `init` -> `ready`; `open`, `chunk`s each answered by `ack`, `finish` -> `loaded`
 * (of a split model, `ahead` and `chunk`s for the header of each later part go before, and `part` between the parts);
 * then `call`s, which it does one after the other, each answered by `result` or `error`. A call that writes text sends
 * `pieces` before, and no more batches than it has credits. `credit` and `cancel` are heard at once, also in the
 * middle of a call. `fatal` is the last thing that a worker says.
 */
import type { PlainError } from "./errors.js";
import type { FinishReason } from "./generation.js";

/** Bytes that own the whole of their buffer, so that it can be transferred. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** Where a download is kept (see cache.ts). */
export interface StoreRequest {
  url: string;
  etag?: string;
  lastModified?: string;
}

/** Settings of a generation, as core names them; what is absent has core's default. */
export interface StartOptions {
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repeatPenalty?: number;
  frequencyPenalty?: number;
  presencePenalty?: number;
  repeatLastN?: number;
  /** Token ids and what is added to their logits; null is minus infinity, which JSON cannot write. */
  logitBias?: [number, number | null][];
  seed: number;
  stop?: string[];
  slide?: boolean;
  keep?: number;
  ignoreEos?: boolean;
}

/** Generations come as pieces of text, or as token ids. */
export type Give = "text" | "ids";
export type Pieces = (string | number)[];

/** Where a generation begins. */
export type Prompt = { text: string } | { tokens: Uint32Array } | { messages: string; extras: string };

/** A drawing, one byte a pixel. */
export interface Canvas {
  grey: Uint8Array;
  width: number;
  height: number;
  /** True when 0 is full ink. */
  dark: boolean;
}

export type Op =
  | { op: "generate"; prompt: Prompt; options: StartOptions; give: Give; credits: number }
  | { op: "classify"; pixels: Uint8Array }
  | { op: "drawing"; canvas: Canvas }
  | { op: "encode"; text: string; addSpecial: boolean; parseSpecial: boolean }
  | { op: "decode"; ids: Uint32Array; skipSpecial: boolean }
  | { op: "metadata" }
  | { op: "memory" }
  | { op: "kernels" }
  | { op: "bench"; kernel: string; rows: number; cols: number; tokens: number; seconds: number };

/** What each call gives. */
export interface Results {
  generate: { finish: FinishReason | undefined; stats: Stats };
  classify: Classified;
  drawing: Classified & { seen: Uint8Array };
  encode: Uint32Array;
  decode: string;
  metadata: string;
  memory: { used: number; reserved: number };
  kernels: string[];
  bench: { seconds: number; iterations: number };
}

export interface Classified {
  probabilities: Float32Array;
  seconds: number;
}

/** Counts of a generation so far; times in seconds since the worker took it up. */
export interface Stats {
  promptTokens: number;
  cachedTokens: number;
  tokens: number;
  promptSeconds: number;
  secondsToFirst: number;
  seconds: number;
}

export type ToWorker =
  | { type: "init"; module: WebAssembly.Module; threads: number }
  | {
      type: "open";
      length: number | undefined;
      kernel: string | undefined;
      context: number | undefined;
      store: StoreRequest | undefined;
    }
  | { type: "ahead"; length: number | undefined }
  | { type: "part"; length: number | undefined; store: StoreRequest | undefined }
  | { type: "chunk"; bytes: Bytes }
  | { type: "finish" }
  | { type: "call"; id: number; op: Op }
  | { type: "credit"; id: number }
  | { type: "cancel"; id: number }
  | { type: "pool"; error: string | undefined };

export type FromWorker =
  | { type: "ready"; threads: number }
  | { type: "pool"; threads: number; module: WebAssembly.Module; memory: WebAssembly.Memory; receiver: number }
  /** `ahead`: a header that is read ahead is incomplete yet. */
  | { type: "ack"; bytes: number; ahead?: boolean }
  | { type: "card"; card: string }
  | { type: "loaded"; card: string; context: number | undefined }
  | { type: "pieces"; id: number; pieces: Pieces; stats: Stats }
  | { type: "result"; id: number; value: Results[keyof Results] }
  | { type: "error"; id: number; error: PlainError }
  | { type: "fatal"; error: PlainError };

/** To a worker of the pool, and back. */
export interface ToPool {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  receiver: number;
}
export type FromPool = { type: "ready" } | { type: "fatal"; error: PlainError };
