// Runs one built variant: `node web/smoke.mjs dist/wasm/relaxed`. Both models that ship are loaded in chunks of odd sizes and
// must say what was recorded (core/tests/data/shipped.json), on each kernel; products must take time and be measured. Threaded
// variants run on a pool of two, this program's own workers.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

if (!isMainThread) {
  const glue = await import(workerData.glue);
  await glue.default({ module_or_path: workerData.module, memory: workerData.memory });
  parentPort.postMessage('ready');
  glue.wbg_rayon_start_worker(workerData.receiver);
}

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = resolve(process.argv[2]);
const small = basename(folder).startsWith('small');
const { shakespeare, mnist } = JSON.parse(readFileSync(join(root, 'core', 'tests', 'data', 'shipped.json'), 'utf8'));

const url = pathToFileURL(join(folder, 'sterna.js')).href;
const glue = await import(url);
await glue.default({ module_or_path: await WebAssembly.compile(readFileSync(join(folder, 'sterna_bg.wasm'))) });
const kernels = glue.kernels();
if (glue.initThreadPool) {
  const ready = (worker) => new Promise((done, fail) => worker.once('message', done).once('error', fail));
  globalThis.sternaPool = {
    async start(threads, module, memory, receiver) {
      const start = () => new Worker(new URL(import.meta.url), { workerData: { glue: url, module, memory, receiver } });
      await Promise.all(Array.from({ length: threads }, () => ready(start())));
    },
  };
  await glue.initThreadPool(2);
  assert.equal(glue.threads(), 2);
}
assert.deepEqual(kernels, basename(folder).includes('relaxed') ? ['relaxed-simd', 'simd128', 'scalar'] : ['simd128', 'scalar']);

function load(name, kernel) {
  const bytes = new Uint8Array(readFileSync(join(root, 'models', name)));
  const loader = new glue.Loader(bytes.length, kernel, undefined);
  for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 3 + 1) % 100_003) loader.push(bytes.subarray(at, at + size));
  assert.ok(JSON.parse(loader.card()).parameters > 0);
  return loader.finish();
}

function spoken(model, options) {
  model.prompt(shakespeare.prompt);
  while (!model.prefill());
  model.start(JSON.stringify({ maxTokens: shakespeare.maxTokens, ...options }));
  let text = '';
  for (let piece; (piece = model.next()) !== undefined; ) text += piece;
  assert.equal(model.finish, 'length');
  assert.equal(model.drawn, shakespeare.maxTokens);
  return text;
}

for (const kernel of kernels) {
  const digits = load('mnist.gguf', kernel);
  const bits = new Uint32Array(digits.classify(new Uint8Array(mnist.pixels)).buffer);
  assert.deepEqual([...bits], mnist.probabilityBits);
  digits.free();
}
if (small) {
  const model = load('shakespeare.gguf');
  assert.throws(() => model.prompt('To be'), { code: 'unsupported' });
  model.promptTokens(new Uint32Array([1, 2, 3]));
  while (!model.prefill());
  model.start('{"maxTokens":5}');
  for (let i = 0; i < 5; i++) assert.equal(typeof model.nextToken(), 'number');
  assert.equal(model.nextToken(), undefined);
} else {
  const model = load('shakespeare.gguf');
  assert.equal(spoken(model, { temperature: 0 }), shakespeare.greedy);
  assert.equal(spoken(model, { seed: shakespeare.seed }), shakespeare.seeded);
}
const times = kernels.map((kernel) => `${kernel} ${((2 * 1024 * 1024 * 20) / glue.benchKernel(kernel, 1024, 1024, 1, 20) / 1e9).toFixed(1)}`);
console.log(`${basename(folder)}: runs; GOPS of ${glue.threads()} threads: ${times.join(', ')}`);
// The pool's workers wait for ever.
process.exit();
