/** How fast the kernels are on this machine. */
import { aborted, invalid } from "./errors.js";
import { Host } from "./host.js";

/** What to measure. */
export interface BenchmarkOptions {
  /** Rows of the ternary matrix; 2048 if not given. */
  rows?: number;
  /** Its columns, a multiple of 256; 2048 if not given. */
  cols?: number;
  /** Vectors that it is multiplied with at once: 1, as in decoding, if not given; 32 is like reading a prompt. */
  tokens?: number;
  /** Seconds for each kernel, at least; 0.2 if not given. */
  seconds?: number;
  /** Threads; as `load` takes them. */
  threads?: number;
  /** False: no relaxed SIMD. */
  relaxed?: boolean;
  /** The kernels to measure; all if not given. */
  kernels?: readonly string[];
  /** Stops when it fires. */
  signal?: AbortSignal;
  /** Hears each result as it is there. */
  onResult?(result: BenchmarkResult): void;
}

/** A kernel's speed. */
export interface BenchmarkResult {
  /** `relaxed-simd`, `simd128` or `scalar`. */
  kernel: string;
  /** Billions of operations a second; a multiplication and an addition are two. */
  gops: number;
  /** Threads that computed. */
  threads: number;
}

/** Multiplies a random ternary matrix with every kernel that runs here, fastest first. */
export async function benchmark(options: BenchmarkOptions = {}): Promise<BenchmarkResult[]> {
  const { rows = 2048, cols = 2048, tokens = 1, seconds = 0.2, signal, onResult } = options;
  for (const [name, value] of Object.entries({ rows, cols, tokens })) {
    if (!Number.isInteger(value) || value < 1 || value > 1 << 16) invalid(`${name} must be a whole number, at least 1`);
  }
  if (!(seconds > 0 && seconds <= 60)) invalid("seconds must be a number above 0, at most 60");
  if (signal?.aborted) throw aborted(signal, "the benchmark");
  const stop = new AbortController();
  const host = await Host.start(options, signal ?? stop.signal);
  const abort = (): void => host.close(signal && aborted(signal, "the benchmark"));
  signal?.addEventListener("abort", abort);
  try {
    const results: BenchmarkResult[] = [];
    for (const kernel of options.kernels ?? (await host.call({ op: "kernels" }))) {
      const run = await host.call({ op: "bench", kernel, rows, cols, tokens, seconds });
      const gops = (2 * rows * cols * tokens * run.iterations) / run.seconds / 1e9;
      const result = { kernel, gops, threads: host.threads };
      results.push(result);
      onResult?.(result);
    }
    return results;
  } finally {
    signal?.removeEventListener("abort", abort);
    host.close();
  }
}
