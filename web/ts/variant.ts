/**
 * Which of the builds in wasm/ this engine can run.
 *
 * Nothing is guessed from user agents: small modules that use the instructions in question are validated. The one
 * exception is Node below 24, which takes relaxed SIMD behind a flag and then computes wrong sums with it.
 */
import { SternaError } from "./errors.js";

/** The builds; `small-*` know no tokenizers and no chat templates, `*-threads` need shared memory. */
export type Variant = "relaxed-threads" | "simd128-threads" | "relaxed" | "simd128" | "small-relaxed" | "small-simd128";

/** `(module (func (result v128) i32.const 0  i8x16.splat  i8x16.popcnt))` */
const SIMD128 = [
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00,
  0x0a, 0x0a, 0x01, 0x08, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x62, 0x0b,
];

/**
 * `(module (func (result v128)
 *   i32.const 0  i8x16.splat  i32.const 0  i8x16.splat  i32.const 0  i8x16.splat  i32x4.relaxed_dot_i8x16_i7x16_add_s))`
 */
const RELAXED = [
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00,
  0x0a, 0x13, 0x01, 0x11, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x93,
  0x02, 0x0b,
];

/** Threads beyond this add nothing: memory is what decoding waits for. */
const MOST_THREADS = 8;

/** True in Node, and not in runtimes that have web workers of their own. @internal */
export const isNode: boolean =
  typeof Worker === "undefined" && typeof process === "object" && typeof process.versions?.node === "string";

/** What this engine and this page offer. */
export interface Support {
  /** WebAssembly with SIMD128, without which nothing runs. */
  simd: boolean;
  /** Relaxed SIMD: the faster kernels. */
  relaxedSimd: boolean;
  /** Threads that `load` uses when not told otherwise; 1 without isolation. */
  threads: number;
  /** True when the page has the isolation headers (COOP and COEP) that shared memory needs. */
  isolated: boolean;
  /** The build that `load` starts with: a folder of `dist/wasm/`. */
  variant: string;
}

/** What this engine and this page offer, and which build `load` would start with. */
export async function support(): Promise<Support> {
  const { simd, relaxed, isolated } = features();
  const threads = defaultThreads();
  const variant = simd ? (candidates({})[0] ?? "") : "";
  return { simd, relaxedSimd: relaxed, threads, isolated, variant };
}

/** What decides about the build. @internal */
export interface Wishes {
  /** False: no tokenizer and no chat is needed. */
  text?: boolean | undefined;
  /** False: no relaxed SIMD. */
  relaxed?: boolean | undefined;
  /** 1: no threads. */
  threads?: number | undefined;
}

/** Builds to try, best first. @internal */
export function candidates(wishes: Wishes): Variant[] {
  const { simd, relaxed } = features();
  if (!simd) {
    throw new SternaError("no-simd", "this browser has no WebAssembly SIMD; any browser of 2023 or later does");
  }
  const isa = relaxed && wishes.relaxed !== false ? "relaxed" : "simd128";
  const list: Variant[] = [];
  if (wishes.text === false) {
    list.push(`small-${isa}`);
    if (isa === "relaxed") list.push("small-simd128");
    return list;
  }
  if (defaultThreads() > 1 && wishes.threads !== 1) list.push(`${isa}-threads`);
  list.push(isa);
  if (isa === "relaxed") list.push("simd128");
  return list;
}

/** How many threads when nobody says; 1 where there can be no more. @internal */
export function defaultThreads(): number {
  const { isolated } = features();
  if (!isolated || typeof SharedArrayBuffer === "undefined") return 1;
  return Math.max(1, Math.min(MOST_THREADS, globalThis.navigator?.hardwareConcurrency ?? 1));
}

let known: { simd: boolean; relaxed: boolean; isolated: boolean } | undefined;

function features(): { simd: boolean; relaxed: boolean; isolated: boolean } {
  if (known) return known;
  const validates = (bytes: number[]): boolean =>
    typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(bytes));
  const oldNode = isNode && Number(process.versions.node.split(".")[0]) < 24;
  known = {
    simd: validates(SIMD128),
    relaxed: !oldNode && validates(RELAXED),
    isolated: !isNode && globalThis.crossOriginIsolated === true,
  };
  return known;
}
