/** From a source to a model: the engine starts while the first bytes come, and packs them as they come. */
import { cache as kept } from "./cache.js";
import { aborted, invalid, SternaError } from "./errors.js";
import type { SternaErrorCode } from "./errors.js";
import { Host } from "./host.js";
import { Model } from "./model.js";
import type { ModelCard } from "./model.js";
import { partsOf } from "./parts.js";
import type { Part } from "./parts.js";
import type { Opened, Progress, Source } from "./source.js";

/** How a model is loaded. */
export interface LoadOptions {
  /** Hears how far it has come, once a chunk. */
  onProgress?(progress: Progress): void;
  /** Hears the model's card as soon as the file's header is there, before the weights. */
  onCard?(card: ModelCard): void;
  /** Gives up when it fires; `load` then throws `aborted`. */
  signal?: AbortSignal;
  /** Threads to compute with. As many as there are cores, at most 8, if not given; always 1 on a page without isolation. */
  threads?: number;
  /** Whether a download is kept and found again; true if not given. */
  cache?: boolean;
  /** The kernel to use instead of the fastest: `relaxed-simd`, `simd128` or `scalar`. */
  kernel?: string;
  /** Tokens of context, if less than what the model was trained for is enough. */
  context?: number;
  /** False: a smaller build without tokenizers and chat, for image classifiers and token ids. */
  text?: boolean;
  /** Where `{ repo, file }` is; `https://huggingface.co` if not given. */
  hub?: string;
  /** In place of the global `fetch`, for headers and the like. */
  fetch?: typeof fetch;
  /** False: no relaxed SIMD, even where it is there. */
  relaxed?: boolean;
}

/** A kept file that rotted, a length that misled, and the load itself. */
const ATTEMPTS = 3;
/** Codes that tell that what was kept is not what was sent. */
const ROTTEN: ReadonlySet<unknown> = new Set<SternaErrorCode>(["truncated", "not-gguf", "damaged", "storage"]);
/** Codes of a file that is longer than its compressed body. */
const MISMATCHED: ReadonlySet<unknown> = new Set<SternaErrorCode>(["truncated", "damaged"]);

/**
 * Loads a model.
 *
 * The file is packed tensor by tensor while it comes, in a worker; memory peaks at about the size of the packed model.
 * Downloads are kept in the browser's private file system (see `cache`) and resumed when they break.
 *
 * @throws SternaError
 */
export async function load(source: Source, options: LoadOptions = {}): Promise<Model> {
  check(options);
  const { signal } = options;
  if (signal?.aborted) throw aborted(signal, "the load");
  const plan: Plan = { cache: options.cache !== false, trust: true };
  for (let attempts = 1; ; attempts++) {
    try {
      return await attempt(source, options, plan);
    } catch (error) {
      if (!(error instanceof Again)) throw error;
      if (attempts === ATTEMPTS) throw error.cause;
      if (error.rotten !== undefined) await kept.delete(error.rotten);
      else plan.trust = false;
    }
  }
}

/** What is learnt from an attempt that failed. */
interface Plan {
  cache: boolean;
  /** Whether a length counts that may be that of a compressed body. */
  trust: boolean;
}

/** An attempt that failed for a reason that another one can avoid. */
class Again extends Error {
  /** @param rotten the URL of a kept file that cannot be used */
  constructor(
    override readonly cause: unknown,
    readonly rotten?: string,
  ) {
    super("once more");
  }
}

async function attempt(source: Source, options: LoadOptions, plan: Plan): Promise<Model> {
  const started = performance.now();
  const { signal, onProgress, onCard } = options;
  // Stops everything: the caller's signal, or a worker that failed.
  const stop = new AbortController();
  const abort = (): void => stop.abort(signal?.reason);
  signal?.addEventListener("abort", abort);
  let host: Host | undefined;
  let opened: Opened | undefined;
  stop.signal.addEventListener("abort", () => host?.close());
  try {
    const fetcher = options.fetch ?? ((input, init) => fetch(input, init));
    const parts = partsOf(source, { signal: stop.signal, cache: plan.cache, hub: options.hub, fetch: fetcher });
    const bytes = openPart(parts, 0);
    const engine = Host.start(options, stop.signal).then((it) => (host = it));
    // The first that fails ends the other.
    [opened] = await Promise.all([bytes, engine]).catch((error: unknown) => {
      stop.abort(error);
      void engine.then((it) => it.close()).catch(() => undefined);
      void bytes.catch(() => undefined);
      throw error;
    });
    const running = await engine;
    running.onEnd = (error) => stop.abort(error);
    running.onCard = (card) => {
      try {
        onCard?.(JSON.parse(card) as ModelCard);
      } catch (error) {
        stop.abort(error);
      }
    };
    const first = opened;
    const lengthOf = (it: Opened): number | undefined => (plan.trust || !it.unsure ? it.length : undefined);
    running.open({ length: lengthOf(first), kernel: options.kernel, context: options.context, store: first.store });
    // A model's tensors are known when the headers of all its parts are.
    let total = first.length;
    for (let i = 1; i < parts.length; i++) {
      opened = await openPart(parts, i);
      total = total === undefined || opened.length === undefined ? undefined : total + opened.length;
      await running.readAhead(lengthOf(opened), opened.chunks);
    }
    let loaded = 0;
    for (let i = 0; i < parts.length; i++) {
      opened = i === 0 ? first : await openPart(parts, i);
      const { phase, store, chunks } = opened;
      if (i > 0) running.part(lengthOf(opened), store);
      for await (const chunk of chunks) {
        loaded += chunk.byteLength;
        await running.push(chunk);
        onProgress?.({ loaded, ...(total !== undefined && loaded <= total && { total }), phase });
      }
      // What is wrong with a part shows before the next is opened.
      await running.drain();
    }
    const { card, context } = await running.finish();
    stop.signal.throwIfAborted();
    running.onEnd = undefined;
    running.onCard = undefined;
    const details = { ...(context !== undefined && { context }), loadSeconds: (performance.now() - started) / 1000 };
    return Model.own(running, JSON.parse(card) as ModelCard, details);
  } catch (error) {
    const reason = signal?.aborted ? aborted(signal, "the load") : failure(stop, error);
    host?.close();
    stop.abort(reason);
    const code = reason instanceof SternaError ? reason.code : undefined;
    if (opened?.phase === "cache" && opened.url !== undefined && ROTTEN.has(code)) throw new Again(reason, opened.url);
    if (opened?.unsure && plan.trust && MISMATCHED.has(code)) throw new Again(reason);
    throw reason;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** Opens one of a model's files; an error says which of several it is. */
async function openPart(parts: readonly Part[], index: number): Promise<Opened> {
  const part = parts[index];
  if (!part) return invalid("the model has no such part");
  try {
    return await part.open();
  } catch (error) {
    if (parts.length === 1 || !(error instanceof SternaError)) throw error;
    const which = `part ${index + 1} of ${parts.length}${part.name && ` (${part.name})`}`;
    const status = error.status === undefined ? {} : { status: error.status };
    throw new SternaError(error.code, `${which}: ${error.message}`, { cause: error, ...status });
  }
}

/** What stopped everything comes before what was thrown because of it. */
function failure(stop: AbortController, error: unknown): unknown {
  return stop.signal.aborted ? stop.signal.reason : error;
}

function check(options: LoadOptions): void {
  const { threads, context } = options;
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 256)) {
    invalid("threads must be a whole number from 1 to 256");
  }
  if (context !== undefined && !(Number.isInteger(context) && context >= 1 && context < 2 ** 32)) {
    invalid("context must be a whole number of tokens, at least 1");
  }
  for (const name of ["kernel", "hub"] as const) {
    if (options[name] !== undefined && typeof options[name] !== "string") invalid(`${name} must be a text`);
  }
}
