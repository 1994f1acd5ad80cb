/**
 * Where a model's bytes come from: everything `load` takes becomes a stream of chunks that may be handed to the worker.
 *
 * Downloads that break are taken up where they broke. What is in the cache is used if the server does not say that it
 * has another file by now. Not here: writing the cache (store.ts), the worker (host.ts).
 */
import { cacheKey, lookUp } from "./cache.js";
import type { StoredEntry } from "./cache.js";
import { invalid, messageOf, SternaError } from "./errors.js";
import type { Bytes, StoreRequest } from "./protocol.js";
import { isNode } from "./variant.js";

/** A file of a repository on a model hub. */
export interface HubFile {
  /** Owner and name, as in `microsoft/bitnet-b1.58-2B-4T-gguf`. */
  repo: string;
  /** The GGUF file in it. */
  file: string;
  /** A branch, tag or commit; `main` if not given. */
  revision?: string;
}

/**
 * What a model can be loaded from. A string is a URL, relative to the page; in Node it is a path, unless it begins with
 * `http:`, `https:`, `file:`, `data:` or `blob:`. Buffers stay as they are; a stream or response is read to its end. The
 * address of one part of a split model (`NAME-00001-of-00003.gguf`) stands for all parts; a list is the parts of one model.
 */
export type Source =
  | string
  | URL
  | Blob
  | ReadableStream<Uint8Array>
  | ArrayBuffer
  | Uint8Array
  | Response
  | HubFile
  | readonly (string | URL | Blob)[];

/** How far a load has come. */
export interface Progress {
  /** Bytes so far. */
  loaded: number;
  /** Bytes in all, where that is known. */
  total?: number;
  /** From the network, from the cache, or from what was given: a file, a buffer, a stream. */
  phase: "download" | "cache" | "read";
}

/** An open source. @internal */
export interface Opened {
  /** Bytes in all, where that is known. */
  length: number | undefined;
  /** True when that may be what a compressed body takes: other origins do not let it be seen. */
  unsure?: boolean;
  phase: Progress["phase"];
  /** Each chunk owns its buffer. */
  chunks: AsyncIterable<Bytes>;
  /** Where it was kept, if it comes from the cache. */
  url?: string;
  /** How to keep what comes. */
  store: StoreRequest | undefined;
}

/** @internal */
export interface SourceOptions {
  signal: AbortSignal;
  cache: boolean;
  hub: string | undefined;
  fetch: typeof fetch;
}

/** Bytes that are read from a Blob or buffer at a time. */
const CHUNK = 1 << 20;
/** Attempts to take up a download that makes no headway. */
const ATTEMPTS = 5;
/** Milliseconds before the first of them; each waits twice as long as the one before. */
const BACKOFF = 500;
/** Bytes that count as headway. */
const HEADWAY = 1 << 20;
/** Milliseconds that the server gets to say whether a cached file is still the right one. */
const FRESH_PATIENCE = 2000;
/** The hub that `{ repo, file }` means. */
const HUB = "https://huggingface.co";

/** Opens anything that `load` takes. @internal */
export async function openSource(source: Source, options: SourceOptions): Promise<Opened> {
  if (typeof source === "string" || source instanceof URL) return openAddress(source, options);
  if (typeof Response !== "undefined" && source instanceof Response) return openResponse(source, options.signal);
  if (typeof Blob !== "undefined" && source instanceof Blob) return openBlob(source, "read", options.signal);
  if (source instanceof ReadableStream) {
    if (source.locked) invalid("the stream is being read by somebody else");
    return { length: undefined, phase: "read", chunks: streamed(source, options.signal, true), store: undefined };
  }
  if (source instanceof Uint8Array) return openBuffer(source, options.signal);
  if (source instanceof ArrayBuffer) return openBuffer(new Uint8Array(source), options.signal);
  if (typeof source === "object" && source !== null && "repo" in source && "file" in source) {
    return openUrl(hubUrl(source, options.hub ?? HUB), options);
  }
  return invalid(
    "load takes a URL, a Blob or File, a ReadableStream, a Response, an ArrayBuffer, a Uint8Array, { repo, file }, or a list of a split model's parts",
  );
}

/** The address of a file on a hub. */
function hubUrl({ repo, file, revision = "main" }: HubFile, hub: string): string {
  for (const [name, value] of Object.entries({ repo, file, revision })) {
    if (typeof value !== "string" || value === "") invalid(`${name} must be a text that is not empty`);
  }
  const path = (text: string): string => text.split("/").map(encodeURIComponent).join("/");
  return `${hub.replace(/\/+$/, "")}/${path(repo)}/resolve/${encodeURIComponent(revision)}/${path(file)}`;
}

async function openAddress(source: string | URL, options: SourceOptions): Promise<Opened> {
  const text = String(source);
  if (isNode) {
    const path = text.startsWith("file:") ? new URL(text) : /^(https?|data|blob):/.test(text) ? undefined : text;
    if (path !== undefined) {
      const { openFile } = await import("./node.js");
      return { ...(await openFile(path)), phase: "read", store: undefined };
    }
  }
  return openUrl(text, options);
}

// ---- Addresses

async function openUrl(address: string, options: SourceOptions): Promise<Opened> {
  let url: string;
  try {
    url = cacheKey(address);
  } catch {
    return invalid(`${JSON.stringify(address)} is not a URL`);
  }
  const kept = options.cache && /^https?:/.test(url);
  if (kept) {
    const found = await lookUp(url);
    if (found && (await fresh(found.entry, options))) return { ...openBlob(found.file, "cache", options.signal), url };
  }
  const response = await request(url, {}, options);
  const identity = validators(response);
  const length = lengthOf(response);
  const chunks = downloaded(url, response, length, options);
  const unsure = response.type === "cors";
  return { length, unsure, phase: "download", chunks, store: kept ? { url, ...identity } : undefined };
}

/** False only when the server says that it has another file than the one that was kept. */
async function fresh(entry: StoredEntry, options: SourceOptions): Promise<boolean> {
  if (globalThis.navigator?.onLine === false) return true;
  try {
    const signal = AbortSignal.any?.([options.signal, AbortSignal.timeout(FRESH_PATIENCE)]) ?? options.signal;
    const response = await options.fetch(entry.url, { method: "HEAD", cache: "no-cache", signal });
    if (!response.ok) return true;
    const { etag, lastModified } = validators(response);
    const length = lengthOf(response);
    if (etag !== undefined && entry.etag !== undefined) return strong(etag) === strong(entry.etag);
    if (length !== undefined && length !== entry.bytes && response.type !== "cors") return false;
    return lastModified === undefined || entry.lastModified === undefined || lastModified === entry.lastModified;
  } catch {
    if (options.signal.aborted) throw options.signal.reason;
    return true;
  }
}

/** Weak and strong tags of one file differ in the prefix that servers add when they compress. */
function strong(etag: string): string {
  return etag.replace(/^W\//, "");
}

function validators(response: Response): { etag?: string; lastModified?: string } {
  const etag = response.headers.get("etag");
  const lastModified = response.headers.get("last-modified");
  return { ...(etag !== null && { etag }), ...(lastModified !== null && { lastModified }) };
}

/** What the body will have in bytes, if the server says and does not compress it. */
function lengthOf(response: Response): number | undefined {
  const length = Number(response.headers.get("content-length") ?? NaN);
  return Number.isSafeInteger(length) && length > 0 && !response.headers.has("content-encoding") ? length : undefined;
}

async function request(url: string, init: RequestInit, options: SourceOptions): Promise<Response> {
  let response: Response;
  try {
    response = await options.fetch(url, { ...init, signal: options.signal });
  } catch (error) {
    if (options.signal.aborted) throw error;
    const why = "the address, the connection, or the server's permission (CORS) is missing";
    throw new SternaError("network", `${url} could not be fetched: ${messageOf(error)} (${why})`, { cause: error });
  }
  return checked(response, url);
}

function checked(response: Response, url: string): Response {
  const { ok, status, statusText } = response;
  if (ok) return response;
  const missing = status === 404 || status === 410;
  const message = missing
    ? `the server has no ${url}`
    : `${url}: the server answered ${status} ${statusText}`.trimEnd();
  throw new SternaError(missing ? "not-found" : "http", message, { status });
}

/** A response's body; when it breaks off, the rest of it from further requests. */
async function* downloaded(
  url: string,
  response: Response,
  length: number | undefined,
  options: SourceOptions,
): AsyncGenerator<Bytes> {
  const identity = validators(response);
  let body = bodyOf(response);
  let received = 0;
  let skip = 0;
  for (let attempts = 0, mark = HEADWAY; ;) {
    try {
      for await (const chunk of streamed(body, options.signal, false)) {
        const bytes = skip === 0 ? chunk : chunk.slice(skip);
        skip = Math.max(0, skip - chunk.byteLength);
        if (bytes.byteLength === 0) continue;
        received += bytes.byteLength;
        yield bytes;
      }
      return;
    } catch (error) {
      if (options.signal.aborted || !(error instanceof SternaError && error.code === "network")) throw error;
      if (received >= mark) attempts = 0;
      mark = received + HEADWAY;
      for (;;) {
        if (++attempts > ATTEMPTS) throw error;
        await sleep(BACKOFF * 2 ** (attempts - 1), options.signal);
        try {
          const next = await request(url, { headers: { range: `bytes=${received}-` }, cache: "no-store" }, options);
          if (!same(identity, validators(next)))
            throw new SternaError("network", `${url} changed while it was fetched`);
          // A server that knows no ranges begins anew.
          skip = next.status === 206 ? 0 : received;
          if (skip > 0 && length !== undefined && lengthOf(next) !== length) throw error;
          body = bodyOf(next);
          break;
        } catch (again) {
          // Without a connection there is no response either.
          const offline = again instanceof SternaError && again.code === "network" && again.cause !== undefined;
          const busy = again instanceof SternaError && (again.status ?? 0) >= 500;
          if (again === error || options.signal.aborted || !(offline || busy)) throw again;
        }
      }
    }
  }
}

function same(a: { etag?: string; lastModified?: string }, b: { etag?: string; lastModified?: string }): boolean {
  if (a.etag !== undefined && b.etag !== undefined) return strong(a.etag) === strong(b.etag);
  return a.lastModified === b.lastModified;
}

function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const fired = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", fired);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", fired, { once: true });
  });
}

// ---- What is at hand

function openResponse(response: Response, signal: AbortSignal): Opened {
  checked(response, response.url || "the response");
  if (response.bodyUsed) invalid("the response has been read already");
  const chunks = streamed(bodyOf(response), signal, false);
  return { length: lengthOf(response), phase: "download", chunks, store: undefined };
}

function bodyOf(response: Response): ReadableStream<Uint8Array> {
  return response.body ?? invalid("the response has no body");
}

function openBlob(blob: Blob, phase: Progress["phase"], signal: AbortSignal): Opened {
  return { length: blob.size, phase, chunks: pieces(), store: undefined };

  async function* pieces(): AsyncGenerator<Bytes> {
    for (let at = 0; at < blob.size; at += CHUNK) {
      signal.throwIfAborted();
      try {
        yield new Uint8Array(await blob.slice(at, at + CHUNK).arrayBuffer());
      } catch (error) {
        throw new SternaError("storage", `the file cannot be read: ${messageOf(error)}`, { cause: error });
      }
    }
  }
}

function openBuffer(bytes: Uint8Array, signal: AbortSignal): Opened {
  return { length: bytes.byteLength, phase: "read", chunks: pieces(), store: undefined };

  async function* pieces(): AsyncGenerator<Bytes> {
    for (let at = 0; at < bytes.byteLength; at += CHUNK) {
      signal.throwIfAborted();
      yield new Uint8Array(bytes.subarray(at, at + CHUNK));
    }
  }
}

/** A stream's chunks; copied where somebody else may still hold them. */
async function* streamed(
  stream: ReadableStream<Uint8Array>,
  signal: AbortSignal,
  copied: boolean,
): AsyncGenerator<Bytes> {
  const reader = stream.getReader();
  const abort = (): void => void reader.cancel(signal.reason).catch(() => undefined);
  signal.addEventListener("abort", abort);
  let over = false;
  try {
    for (;;) {
      signal.throwIfAborted();
      const { done, value } = await read();
      signal.throwIfAborted();
      if (done) {
        over = true;
        return;
      }
      if (!(value instanceof Uint8Array)) invalid("the stream must give Uint8Array chunks");
      yield owned(value, copied);
    }
  } finally {
    signal.removeEventListener("abort", abort);
    if (!over) void reader.cancel().catch(() => undefined);
  }

  async function read(): Promise<ReadableStreamReadResult<Uint8Array>> {
    try {
      return await reader.read();
    } catch (error) {
      over = true;
      signal.throwIfAborted();
      throw new SternaError("network", `the stream broke off: ${messageOf(error)}`, { cause: error });
    }
  }
}

function owned(bytes: Uint8Array, copied: boolean): Bytes {
  const { buffer } = bytes;
  const whole = buffer instanceof ArrayBuffer && buffer.byteLength === bytes.byteLength;
  return whole && !copied ? new Uint8Array(buffer) : new Uint8Array(bytes);
}
