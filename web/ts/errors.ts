/** What went wrong, as a word that programs can compare. docs/javascript.md lists causes and remedies. */
export type SternaErrorCode =
  /** The signal that was given has fired. */
  | "aborted"
  /** The connection failed, or broke and could not be resumed. */
  | "network"
  /** The server refused; `status` has its number. */
  | "http"
  /** The server or the disk has no such file. */
  | "not-found"
  /** The file ends before its last tensor. */
  | "truncated"
  /** The bytes are not a GGUF file. */
  | "not-gguf"
  /** A GGUF file that contradicts itself. */
  | "damaged"
  /** A sound file of a kind that is not supported, or text asked of a build without tokenizers. */
  | "unsupported"
  /** The model and its cache do not fit into the memory that a page gets. */
  | "out-of-memory"
  /** The prompt does not fit into the context. */
  | "context-full"
  /** Text was asked of an image classifier, or the reverse. */
  | "wrong-kind"
  /** The file has no tokenizer. */
  | "no-tokenizer"
  /** The file has no chat template, and its vocabulary does not tell which one it was made for. */
  | "no-chat-template"
  /** The chat template is broken or refuses the messages. */
  | "template"
  /** An argument is of the wrong type or out of range. */
  | "invalid-argument"
  /** The model has been freed. */
  | "closed"
  /** The worker died. The model is gone; load it again. */
  | "crashed"
  /** A file or the browser's storage could not be read or written. */
  | "storage"
  /** WebAssembly or its SIMD instructions are missing. */
  | "no-simd";

/** Every code, to check those that come from the worker. */
const CODES: ReadonlySet<string> = new Set<SternaErrorCode>([
  "aborted",
  "network",
  "http",
  "not-found",
  "truncated",
  "not-gguf",
  "damaged",
  "unsupported",
  "out-of-memory",
  "context-full",
  "wrong-kind",
  "no-tokenizer",
  "no-chat-template",
  "template",
  "invalid-argument",
  "closed",
  "crashed",
  "storage",
  "no-simd",
]);

/** Every error that this package throws. */
export class SternaError extends Error {
  override readonly name = "SternaError";
  /** What went wrong. */
  readonly code: SternaErrorCode;
  /** The server's status, for `http` and for `not-found` over HTTP. */
  readonly status?: number;

  /** @param options `cause`: the error underneath; `status`: of HTTP. */
  constructor(code: SternaErrorCode, message: string, options: { cause?: unknown; status?: number } = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.code = code;
    if (options.status !== undefined) this.status = options.status;
  }
}

/** An error on its way between threads. */
export interface PlainError {
  code: SternaErrorCode;
  message: string;
}

/** What any thrown value is in our terms; `otherwise` is the code of one that says nothing. @internal */
export function plain(error: unknown, otherwise: SternaErrorCode): PlainError {
  const message = messageOf(error);
  const code: unknown = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return { code: typeof code === "string" && CODES.has(code) ? (code as SternaErrorCode) : otherwise, message };
}

/** @internal */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The error for an abort signal that has fired. @internal */
export function aborted(signal: AbortSignal, what: string): SternaError {
  return new SternaError("aborted", `${what} was aborted`, { cause: signal.reason });
}

/** Throws `invalid-argument`. @internal */
export function invalid(message: string): never {
  throw new SternaError("invalid-argument", message);
}
