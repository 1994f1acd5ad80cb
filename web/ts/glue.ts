/** What wasm-bindgen writes from web/src, as far as it is used here. Whatever it throws is an `Error` with a `code`. */
export interface Glue {
  default(init: {
    module_or_path: WebAssembly.Module;
    memory?: WebAssembly.Memory;
    thread_stack_size?: number;
  }): Promise<{ readonly memory: WebAssembly.Memory }>;
  /** Threaded builds only. */
  initThreadPool?(threads: number): Promise<void>;
  /** Threaded builds only: joins the pool, and comes back when the pool ends. */
  wbg_rayon_start_worker?(receiver: number): void;
  kernels(): string[];
  threads(): number;
  centre(canvas: Uint8Array, width: number, height: number, dark: boolean): Uint8Array;
  /** Seconds that all iterations took. */
  benchKernel(kernel: string, rows: number, cols: number, tokens: number, iterations: number): number;
  Loader: new (length: number | undefined, kernel: string | undefined, context: number | undefined) => GlueLoader;
}

export interface GlueLoader {
  push(chunk: Uint8Array): void;
  /** Split models: begins to read a later part's header; `push` takes it while `readsAhead`. */
  ahead(length: number | undefined): void;
  readonly readsAhead: boolean;
  /** Split models: the part has ended, the next begins. */
  part(length: number | undefined): void;
  card(): string | undefined;
  finish(): GlueModel;
}

export interface GlueModel {
  readonly kind: string;
  card(): string;
  metadata(): string;
  encode(text: string, addSpecial: boolean, parseSpecial: boolean): Uint32Array;
  decode(ids: Uint32Array, skipSpecial?: boolean): string;
  classify(pixels: Uint8Array): Float32Array;
  prompt(text: string): number;
  promptTokens(ids: Uint32Array): number;
  promptChat(messages: string, extras: string): number;
  prefill(): boolean;
  start(options: string): void;
  next(): string | undefined;
  nextToken(): number | undefined;
  readonly finish: string | undefined;
  readonly drawn: number;
  /** Tokens of the last prompt that were in the cache. */
  readonly cached: number;
  /** Tokens that fit. */
  readonly context: number;
  memory(): number;
}
