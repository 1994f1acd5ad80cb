// What somebody who read docs/javascript.md would write; every public type is used once.
import { SternaError, benchmark, cache, load, support } from "sterna";
import type {
  BenchmarkResult,
  CacheEntry,
  ChatChunk,
  Generation,
  Model,
  ModelInfo,
  Progress,
  SternaErrorCode,
  Support,
} from "sterna";

const out = document.querySelector("#out")!;

const here: Support = await support();
let last: Progress | undefined;
const model: Model = await load("shakespeare.gguf", {
  onProgress: (progress) => {
    last = progress;
  },
});
const info: ModelInfo = model.info;
const generation: Generation = model.generate("ROMEO:", { maxTokens: 200, seed: 7 });
for await (const piece of generation) out.append(piece);
const ids: Uint32Array = await model.tokenize("To be");
const back: string = await model.detokenize(ids);
const code: SternaErrorCode | undefined = await model
  .chat([{ role: "user", content: "hello" }])
  .text()
  .then(() => undefined)
  .catch((error: unknown) => (error instanceof SternaError ? error.code : undefined));
async function chunks(chat: AsyncIterable<ChatChunk>): Promise<string> {
  let text = "";
  for await (const { choices } of chat) text += choices[0]?.delta.content ?? "";
  return text;
}
void chunks;
const digits = await load("mnist.gguf", { text: false });
const { label, probabilities } = await digits.classify(new Uint8Array(784));
const kept: CacheEntry[] = await cache.list();
const speed: BenchmarkResult[] = await benchmark({ rows: 256, cols: 256, seconds: 0.01 });
digits[Symbol.dispose]();
model.free();

Object.assign(globalThis, {
  seen: {
    text: out.textContent,
    loaded: last?.loaded,
    variants: [here.variant, info.variant, digits.info.variant],
    threads: info.threads,
    ids: ids.length,
    back,
    code,
    label,
    classes: probabilities.length,
    kept: kept.length,
    kernels: speed.map(({ kernel }) => kernel),
  },
});
