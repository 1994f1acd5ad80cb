// The built package (npm run build) in Node and in Chromium: what it writes is what the command line writes.
//
//   node --test tests/web/package.test.mjs
//
// expected.json has the command line's texts with the commands that made them.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, openAsBlob, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { DIGITS, chromiumPath, draw, launch, openPage, root, serve, withText } from './support.mjs';

const index = join(root, 'dist', 'index.js');
if (!existsSync(index) || !existsSync(join(root, 'dist', 'wasm', 'simd128', 'sterna_bg.wasm'))) {
  throw new Error('dist/ is not there: run npm run build first');
}
const { SternaError, benchmark, cache, load, support } = await import(pathToFileURL(index));

const { cases } = JSON.parse(
  readFileSync(join(import.meta.dirname ?? join(root, 'tests', 'web'), 'expected.json'), 'utf8'),
);
const shakespeare = join(root, 'models', 'shakespeare.gguf');
const mnist = join(root, 'models', 'mnist.gguf');
const qwen = join(root, 'core', 'tests', 'data', 'models', 'qwen3-tq2_0.gguf');

const TEMPLATE =
  "{% for m in messages %}{% if m.role == 'refused' %}{{ raise_exception('no such role') }}{% endif %}" +
  '<|im_start|>{{ m.role }}\n{{ m.content }}{{ extra }}<|im_end|>\n{% endfor %}' +
  '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}';
/** Files made for these tests, served as /made/. */
const made = mkdtempSync(join(tmpdir(), 'sterna-web-'));
writeFileSync(join(made, 'chat.gguf'), withText(readFileSync(qwen), 'tokenizer.chat_template', TEMPLATE));
writeFileSync(join(made, 'changing.gguf'), readFileSync(shakespeare));
after(() => rmSync(made, { recursive: true, force: true }));

const folders = {
  '/dist/': join(root, 'dist'),
  '/models/': join(root, 'models'),
  '/core/tests/data/models/': join(root, 'core', 'tests', 'data', 'models'),
  '/made/': made,
  '/hub/owner/name/resolve/main/': join(root, 'models'),
};

/** Rejects with a code. */
const fails = (promise, code) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof SternaError, `${error?.stack ?? error}`);
    assert.equal(error.code, code, `${error.code}: ${error.message}`);
    return true;
  });

describe('in Node', () => {
  let server;
  let model;
  before(async () => {
    server = await serve({ folders });
    model = await load(shakespeare);
  });
  after(async () => {
    model.free();
    await server.close();
  });

  test('the command line writes the same', async () => {
    for (const { model: file, prompt, options, text, command } of cases) {
      const model = await load(join(root, file));
      assert.equal(await model.generate(prompt, options).text(), text, command);
      model.free();
    }
  });

  test('every source gives the same model', async () => {
    const bytes = readFileSync(shakespeare);
    const stream = () =>
      new ReadableStream({
        start(controller) {
          for (let at = 0; at < bytes.length; at += 99_991)
            controller.enqueue(new Uint8Array(bytes.subarray(at, at + 99_991)));
          controller.close();
        },
      });
    const sources = {
      path: shakespeare,
      'file URL': pathToFileURL(shakespeare),
      'URL as text': `${server.url}/models/shakespeare.gguf`,
      URL: new URL(`${server.url}/models/shakespeare.gguf`),
      Response: await fetch(`${server.url}/models/shakespeare.gguf`),
      Blob: await openAsBlob(shakespeare),
      stream: stream(),
      Uint8Array: bytes,
      ArrayBuffer: new Uint8Array(bytes).buffer,
      hub: { repo: 'owner/name', file: 'shakespeare.gguf' },
    };
    const { prompt, options, text } = cases[0];
    for (const [name, source] of Object.entries(sources)) {
      const progress = [];
      const cards = [];
      const model = await load(source, {
        hub: `${server.url}/hub`,
        onProgress: (p) => progress.push(p),
        onCard: (c) => cards.push(c),
      });
      assert.equal(await model.generate(prompt, options).text(), text, name);
      assert.equal(progress.at(-1).loaded, bytes.length, name);
      if (name !== 'stream') assert.equal(progress.at(-1).total, bytes.length, name);
      assert.equal(cards.length, 1, name);
      assert.equal(cards[0].architecture, 'bitnet');
      model.free();
    }
    assert.equal(bytes.length, 1_515_360, 'a buffer that was given stays as it is');
  });

  test('the card', async () => {
    const { info } = model;
    assert.equal(info.name, 'Shakespeare');
    assert.equal(info.kind, 'text');
    assert.equal(info.quantization, 'Q2_0');
    assert.equal(info.vocabulary, 66);
    assert.equal(info.contextLength, 256);
    assert.equal(info.context, 256);
    assert.equal(info.threads, 1);
    assert.equal(info.hasTokenizer, true);
    assert.equal(info.hasChatTemplate, false);
    assert.ok(info.loadSeconds > 0);
    assert.ok(['relaxed', 'simd128'].includes(info.variant));
    assert.equal((await model.metadata())['general.name'], 'Shakespeare');
    const { used, reserved } = await model.memory();
    assert.ok(used > 1_000_000 && used < reserved, `${used} of ${reserved}`);
  });

  test('tokens there and back', async () => {
    const ids = await model.tokenize('To be, or not');
    assert.equal(ids.length, 13);
    assert.equal(await model.detokenize(ids), 'To be, or not');
    assert.equal(await model.detokenize([...ids]), 'To be, or not');
  });

  test('a prompt of ids, and ids in place of text', async () => {
    const { prompt, options, text } = cases[0];
    const ids = await model.tokenize(prompt, { addSpecial: true });
    assert.equal(await model.generate(ids, options).text(), text);
    const out = [];
    for await (const id of model.generate([...ids], options).ids()) out.push(id);
    assert.equal(await model.detokenize(out), text);
  });

  test('counts and times, and what was in the cache', async () => {
    await model.generate('KING HENRY', { maxTokens: 3, seed: 1 }).text();
    const generation = model.generate('KING HENRY VI:', { maxTokens: 20, seed: 1 });
    assert.equal(generation.finishReason, undefined);
    await generation.text();
    const { stats } = generation;
    assert.equal(generation.finishReason, 'length');
    assert.equal(stats.promptTokens, 14);
    assert.ok(stats.cachedTokens >= 10, `${stats.cachedTokens}`);
    assert.equal(stats.tokens, 20);
    assert.ok(stats.secondsToFirst > 0 && stats.seconds >= stats.secondsToFirst);
    assert.ok(stats.tokensPerSecond > 1);
  });

  test('a seed is drawn, told, and repeats the text', async (t) => {
    // What the system draws is the same in every run.
    let drawn = 41;
    t.mock.method(crypto, 'getRandomValues', (array) => array.fill(++drawn));
    const first = model.generate('A', { maxTokens: 30 });
    assert.equal(first.seed, 42);
    const text = await first.text();
    assert.equal(await model.generate('A', { maxTokens: 30, seed: 42 }).text(), text);
    assert.deepEqual([model.generate('A').seed, model.generate('A').seed], [43, 44]);
  });

  test('stop texts, greedy text, the end of the context, and beyond it', async () => {
    // Of what is recorded, a part of a word in its middle.
    const half = cases[0].text.slice(100, 104);
    const stopped = model.generate(cases[0].prompt, { ...cases[0].options, stop: [half, 'zzz'] });
    assert.equal(await stopped.text(), cases[0].text.split(half)[0]);
    assert.equal(stopped.finishReason, 'stop');
    const full = model.generate('A', { seed: 5 });
    await full.text();
    assert.equal(full.finishReason, 'context');
    const slid = model.generate('A', { seed: 5, slide: true, maxTokens: 400 });
    await slid.text();
    assert.equal(slid.stats.tokens, 400);
  });

  test('biases forbid and force tokens, penalties change the text', async () => {
    const first = async (options) => {
      for await (const id of model.generate('ROMEO:', { temperature: 0, maxTokens: 1, ...options }).ids()) return id;
    };
    const likeliest = await first({});
    const other = await first({ logitBias: { [likeliest]: -Infinity } });
    assert.notEqual(other, likeliest);
    assert.equal(await first({ logitBias: { [other]: 1000 } }), other);
    const text = (options) => model.generate('the the the', { temperature: 0, maxTokens: 60, ...options }).text();
    assert.notEqual(await text({ presencePenalty: 5 }), await text({}));
    assert.notEqual(await text({ frequencyPenalty: 5 }), await text({}));
  });

  test('leaving the loop stops the worker, and the model goes on', async () => {
    let pieces = 0;
    for await (const piece of model.generate('A', { seed: 1, slide: true })) {
      assert.ok(piece.length > 0);
      if (++pieces === 5) break;
    }
    assert.equal(await model.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
  });

  test('a signal stops a generation', async () => {
    const controller = new AbortController();
    let pieces = 0;
    await fails(
      (async () => {
        for await (const _ of model.generate('A', { seed: 1, slide: true, signal: controller.signal })) {
          if (++pieces === 5) controller.abort('enough');
        }
      })(),
      'aborted',
    );
    assert.equal(pieces, 5);
    await fails(model.generate('A', { signal: AbortSignal.abort() }).text(), 'aborted');
    await fails(model.tokenize('A', { signal: AbortSignal.abort() }), 'aborted');
    assert.equal(await model.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
  });

  test('calls wait their turn', async () => {
    const texts = await Promise.all(
      cases.slice(0, 3).map(({ prompt, options }) => model.generate(prompt, options).text()),
    );
    assert.deepEqual(
      texts,
      cases.slice(0, 3).map(({ text }) => text),
    );
  });

  test('a generation is read once', async () => {
    const generation = model.generate('A', { maxTokens: 2, seed: 1 });
    await generation.text();
    await fails(generation.text(), 'invalid-argument');
  });

  test('digits', async () => {
    const model = await load(mnist, { text: false });
    assert.equal(model.info.kind, 'image');
    assert.match(model.info.variant, /^small-/);
    assert.deepEqual(model.info.image, {
      width: 28,
      height: 28,
      channels: 1,
      classes: [...'0123456789'],
      centred: true,
    });
    for (const [digit, lines] of Object.entries(DIGITS)) {
      const light = draw(lines);
      const one = await model.classifyDrawing({ data: light, width: 200, height: 200, ink: 'light' });
      assert.equal(one.label, Number(digit));
      assert.equal(one.probabilities.length, 10);
      assert.ok(Math.abs(one.probabilities.reduce((sum, p) => sum + p, 0) - 1) < 1e-4);
      assert.equal(one.seen.length, 784);
      assert.ok(one.seconds > 0);
      // What it saw is what it classifies.
      assert.deepEqual((await model.classify([...one.seen])).probabilities, one.probabilities);
      // The same drawing, dark on white, and in the colours of a canvas.
      const dark = light.map((pixel) => 255 - pixel);
      const inks = [
        { data: dark },
        { data: rgba(dark, 255) },
        { data: rgba(light, 255), ink: 'light' },
        { data: alpha(light) },
      ];
      for (const drawing of inks) {
        const again = await model.classifyDrawing({ width: 200, height: 200, ...drawing });
        assert.deepEqual(again.seen, one.seen);
      }
    }
    await fails(model.classify(new Uint8Array(3)), 'invalid-argument');
    await fails(
      model.classifyDrawing({ data: new Uint8Array(100), width: 10, height: 10, ink: 'light' }),
      'invalid-argument',
    );
    await fails(model.classifyDrawing({ data: new Uint8Array(7), width: 10, height: 10 }), 'invalid-argument');
    await fails(
      model.classifyDrawing({ data: new Uint8Array(4), width: 2, height: 2, ink: 'red' }),
      'invalid-argument',
    );
    await fails(model.generate('A').text(), 'wrong-kind');
    model.free();
  });

  test('chat', async () => {
    const model = await load(join(made, 'chat.gguf'));
    assert.equal(model.info.hasChatTemplate, true);
    const messages = [{ role: 'user', content: 'the hat' }];
    const options = { maxTokens: 12, seed: 4, ignoreEos: true };
    const rendered = '<|im_start|>user\nthe hat!<|im_end|>\n<|im_start|>assistant\n';
    const ids = await model.tokenize(rendered, { parseSpecial: true });
    const text = await model.generate(ids, options).text();
    const chunks = [];
    for await (const chunk of model.chat(messages, { ...options, template: { extra: '!' } })) chunks.push(chunk);
    assert.equal(chunks.map(({ choices: [{ delta }] }) => delta.content ?? '').join(''), text);
    const [first] = chunks;
    assert.equal(first.object, 'chat.completion.chunk');
    assert.deepEqual(first.choices, [{ index: 0, delta: { role: 'assistant' }, finish_reason: null }]);
    assert.ok(
      chunks.every(({ id, model, created }) => id === first.id && model === 'tiny' && created === first.created),
    );
    const last = chunks.at(-1);
    assert.deepEqual(last.choices, [{ index: 0, delta: {}, finish_reason: 'length' }]);
    const usage = { prompt_tokens: ids.length, completion_tokens: 12, total_tokens: ids.length + 12 };
    assert.deepEqual(last.usage, usage);
    assert.equal(await model.chat(messages, { ...options, template: { extra: '!' } }).text(), text);
    await fails(model.chat([{ role: 'refused', content: '' }]).text(), 'template');
    model.free();
    // Without a template of its own, the vocabulary tells.
    const guessed = await load(qwen);
    assert.notEqual(await guessed.chat(messages, options).text(), '');
    guessed.free();
  });

  test('arguments are checked', async () => {
    for (const options of [
      { maxTokens: -1 },
      { maxTokens: 1.5 },
      { maxTokens: '3' },
      { temperature: -1 },
      { temperature: NaN },
      { topK: -1 },
      { topP: 2 },
      { minP: -0.1 },
      { repeatPenalty: 0 },
      { repeatLastN: -1 },
      { keep: -1 },
      { frequencyPenalty: '1' },
      { presencePenalty: Infinity },
      { logitBias: 3 },
      { logitBias: { x: 1 } },
      { logitBias: { 1: Infinity } },
      { logitBias: { 1: '2' } },
      { logitBias: { 100000: 1 } },
      { seed: -1 },
      { seed: 0.5 },
      { seed: 2 ** 53 },
      { stop: '' },
      { stop: [''] },
      { stop: 3 },
      { stop: [3] },
      { slide: 1 },
      { ignoreEos: 'yes' },
    ]) {
      await fails((async () => model.generate('A', options).text())(), 'invalid-argument');
    }
    for (const messages of [[], 'hello', [{}], [{ role: 'user' }], [{ role: '', content: '' }], [null]]) {
      await fails((async () => model.chat(messages).text())(), 'invalid-argument');
    }
    for (const source of [undefined, null, 3, {}, { repo: 'a/b' }, { repo: '', file: 'x' }])
      await fails(load(source), 'invalid-argument');
    for (const options of [{ threads: 0 }, { threads: 1.5 }, { context: 0 }, { kernel: 3 }, { kernel: 'mmx' }]) {
      await fails(load(shakespeare, options), 'invalid-argument');
    }
    await fails(model.tokenize(3), 'invalid-argument');
    await fails(model.detokenize([-1]), 'invalid-argument');
    await fails((async () => model.generate([0.5]).text())(), 'invalid-argument');
  });

  test('files that are none, broken, cut off, or of another kind', async () => {
    const bytes = readFileSync(shakespeare);
    await fails(load(Buffer.from('<!doctype html><title>Not here</title> nor a model either')), 'not-gguf');
    await fails(load(new Uint8Array(0)), 'truncated');
    await fails(load(bytes.subarray(0, 100_000)), 'truncated');
    await fails(load(new Blob([bytes.subarray(0, 1000)]).stream()), 'truncated');
    const damaged = Buffer.from(bytes);
    damaged.writeBigUInt64LE(2n ** 60n, 8);
    await fails(load(damaged), 'damaged');
    const foreign = Buffer.from(bytes);
    foreign.write('bitter', foreign.indexOf('bitnet'));
    await fails(load(foreign), 'unsupported');
    await fails(load(join(made, 'missing.gguf')), 'not-found');
    await fails(load(made), 'storage');
    const broken = new ReadableStream({
      start(controller) {
        controller.enqueue(new Uint8Array(bytes.subarray(0, 9000)));
        controller.error(new Error('cut'));
      },
    });
    await fails(load(broken), 'network');
    await fails(load(new ReadableStream({ start: (controller) => controller.enqueue('text') })), 'invalid-argument');
  });

  test('servers that refuse, are not there, or break off', async () => {
    await fails(load(`${server.url}/models/missing.gguf`), 'not-found');
    server.faults.set('mnist.gguf', { status: 503 });
    await assert.rejects(load(`${server.url}/models/mnist.gguf`), { code: 'http', status: 503 });
    server.faults.set('mnist.gguf', { down: true });
    await fails(load(`${server.url}/models/mnist.gguf`), 'network');
    server.faults.set('mnist.gguf', {});
    // Three breaks, each after half of the rest: taken up by ranges.
    server.faults.set('shakespeare.gguf', { drops: 3 });
    const from = server.log.length;
    const model = await load(`${server.url}/models/shakespeare.gguf`);
    assert.equal(await model.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
    model.free();
    const ranges = server.log.slice(from).map(({ range }) => range);
    assert.equal(ranges.length, 4);
    assert.equal(ranges[0], undefined);
    assert.ok(ranges.slice(1).every((range) => /^bytes=\d+-$/.test(range)));
    // A server without ranges begins anew.
    server.faults.set('shakespeare.gguf', { drops: 1, noRanges: true });
    const again = await load(`${server.url}/models/shakespeare.gguf`);
    assert.equal(await again.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
    again.free();
    server.faults.set('shakespeare.gguf', {});
  });

  test('a file that changes while it is fetched is not joined', async () => {
    const fault = { drops: 1, etag: '"one"' };
    server.faults.set('shakespeare.gguf', fault);
    const loading = load(`${server.url}/models/shakespeare.gguf`);
    setTimeout(() => (fault.etag = '"two"'), 300);
    await fails(loading, 'network');
    server.faults.set('shakespeare.gguf', {});
  });

  test('a signal stops a load, and the download with it', async () => {
    const fault = { slow: 10_000 };
    server.faults.set('shakespeare.gguf', fault);
    const controller = new AbortController();
    const onProgress = ({ loaded }) => loaded > 50_000 && controller.abort();
    await fails(load(`${server.url}/models/shakespeare.gguf`, { signal: controller.signal, onProgress }), 'aborted');
    await new Promise((done) => setTimeout(done, 200));
    assert.ok(fault.closedAt < 1_000_000, 'the server went on sending');
    server.faults.set('shakespeare.gguf', {});
    await fails(load(shakespeare, { signal: AbortSignal.abort() }), 'aborted');
  });

  test('a text that does not fit, and what a model does not have', async () => {
    await fails(model.generate('A'.repeat(300)).text(), 'context-full');
    await fails(model.chat([{ role: 'user', content: 'A' }]).text(), 'no-chat-template');
    await fails(model.classify(new Uint8Array(784)), 'wrong-kind');
    const small = await load(shakespeare, { text: false });
    await fails(small.tokenize('A'), 'unsupported');
    const ids = await model.tokenize(cases[0].prompt, { addSpecial: true });
    const out = [];
    for await (const id of small.generate(ids, cases[0].options).ids()) out.push(id);
    assert.equal(await model.detokenize(out), cases[0].text);
    small.free();
    const wordless = Buffer.from(readFileSync(shakespeare));
    wordless.write('vocabulary', wordless.indexOf('tokenizer.ggml.model'));
    const mute = await load(wordless);
    assert.equal(mute.info.hasTokenizer, false);
    await fails(mute.tokenize('A'), 'no-tokenizer');
    await fails(mute.generate('A').text(), 'no-tokenizer');
    mute.free();
    assert.equal(await model.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
  });

  test('free ends what waits, and may be called twice', async () => {
    const model = await load(shakespeare);
    const running = model.generate('A', { seed: 1, slide: true }).text();
    const waiting = model.tokenize('A');
    setTimeout(() => model[Symbol.dispose ?? Symbol.for('Symbol.dispose')](), 100);
    await fails(running, 'closed');
    await fails(waiting, 'closed');
    await model.closed;
    model.free();
    await fails(model.tokenize('A'), 'closed');
    await fails(model.generate('A').text(), 'closed');
  });

  test('there is no cache, and no more than one thread', async () => {
    assert.deepEqual(await cache.list(), []);
    assert.equal(await cache.size(), 0);
    assert.equal(await cache.delete('http://localhost/x'), false);
    await cache.clear();
    const { simd, threads, isolated } = await support();
    assert.deepEqual({ simd, threads, isolated }, { simd: true, threads: 1, isolated: false });
  });

  test('kernels', async () => {
    const results = await benchmark({ rows: 256, cols: 256, seconds: 0.02 });
    assert.ok(results.some(({ kernel }) => kernel === 'simd128') && results.some(({ kernel }) => kernel === 'scalar'));
    assert.ok(results.every(({ gops, threads }) => gops > 0 && threads === 1));
    const model = await load(shakespeare, { kernel: 'scalar' });
    assert.equal(model.info.kernel, 'scalar');
    assert.equal(await model.generate(cases[0].prompt, cases[0].options).text(), cases[0].text);
    model.free();
  });

  test('a program ends by itself, with a model that was never freed', () => {
    const program = `
      import { load } from ${JSON.stringify(pathToFileURL(index).href)};
      const model = await load(${JSON.stringify(shakespeare)});
      let text = '';
      for await (const piece of model.generate('ROMEO:', { seed: 7 })) { text += piece; if (text.length > 9) break; }
      console.log(text.trim());`;
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(done.status, 0, done.stderr);
    assert.equal(done.stdout.trim(), cases[0].text.slice(0, 10).trim());
  });
});

/** Grey as RGBA. */
function rgba(grey, alpha) {
  return Uint8ClampedArray.from({ length: 4 * grey.length }, (_, i) => (i % 4 === 3 ? alpha : grey[i >> 2]));
}

/** Ink as black of so much opacity, as a transparent canvas has it. */
function alpha(light) {
  return Uint8ClampedArray.from({ length: 4 * light.length }, (_, i) => (i % 4 === 3 ? light[i >> 2] : 0));
}

const skip = chromiumPath() ? false : 'no chromium on the path';
if (skip) console.log(`skipped: the package in a browser: ${skip}`);

describe('in Chromium', { skip }, () => {
  let browser;
  let server;
  let bare;
  before(async () => {
    [browser, server, bare] = await Promise.all([launch(), serve({ folders }), serve({ folders, isolated: false })]);
  });
  after(async () => {
    await browser?.close();
    await Promise.all([server?.close(), bare?.close()]);
  });

  /** Runs a function in a fresh page, where `sterna` is the package. What it throws has its code in the message. */
  async function inPage(run, argument, { url = server.url, prepare } = {}) {
    const { page, close } = await openPage(browser, url);
    try {
      if (prepare) await page.evaluate(prepare);
      await page.evaluate(async () => {
        globalThis.sterna = await import('/dist/index.js');
        globalThis.codeOf = (promise) =>
          promise.then(
            () => 'nothing',
            (error) => error.code ?? String(error),
          );
      });
      return await page.evaluate(run, argument);
    } finally {
      await close();
    }
  }

  /** Waits for all workers to end: Chromium lets those that compute, or wait for work, go on for two seconds. */
  async function gone(page) {
    for (let tries = 0; page.workers().length > 0; tries++) {
      assert.ok(tries < 100, `${page.workers().length} workers are left`);
      await page.waitForTimeout(100);
    }
  }

  test('what is supported', async () => {
    const here = await inPage(() => sterna.support());
    assert.deepEqual(
      { ...here, threads: 0 },
      { simd: true, relaxedSimd: true, isolated: true, threads: 0, variant: here.variant },
    );
    assert.equal(here.variant, here.threads > 1 ? 'relaxed-threads' : 'relaxed');
    const there = await inPage(() => sterna.support(), undefined, { url: bare.url });
    assert.deepEqual(there, { simd: true, relaxedSimd: true, isolated: false, threads: 1, variant: 'relaxed' });
  });

  for (const relaxed of [true, false]) {
    for (const threads of [1, 2]) {
      const variant = `${relaxed ? 'relaxed' : 'simd128'}${threads > 1 ? '-threads' : ''}`;
      test(`${variant} writes what the command line writes`, async () => {
        const results = await inPage(
          async ({ cases, relaxed, threads }) => {
            const results = [];
            for (const { model: file, prompt, options } of cases) {
              const model = await sterna.load(`/${file}`, { relaxed, threads, cache: false });
              const generation = model.generate(prompt, options);
              results.push({ text: await generation.text(), info: model.info });
              model.free();
            }
            return results;
          },
          { cases, relaxed, threads },
        );
        for (const [i, { text, info }] of results.entries()) {
          assert.equal(text, cases[i].text, cases[i].command);
          assert.equal(info.variant, variant);
          assert.equal(info.threads, threads);
          assert.equal(info.kernel, relaxed ? 'relaxed-simd' : 'simd128');
        }
      });
    }
  }

  test('every source gives the same model', async () => {
    const texts = await inPage(async ({ prompt, options }) => {
      const url = '/models/shakespeare.gguf';
      const bytes = await (await fetch(url)).arrayBuffer();
      const sources = {
        text: url,
        URL: new URL(url, location.href),
        Blob: new Blob([bytes]),
        File: new File([bytes], 'shakespeare.gguf'),
        'blob URL': URL.createObjectURL(new Blob([bytes])),
        stream: new Blob([bytes]).stream(),
        Response: await fetch(url),
        ArrayBuffer: bytes,
        Uint8Array: new Uint8Array(bytes),
        hub: { repo: 'owner/name', file: 'shakespeare.gguf' },
      };
      const texts = {};
      for (const [name, source] of Object.entries(sources)) {
        const model = await sterna.load(source, { hub: '/hub', cache: false });
        texts[name] = await model.generate(prompt, options).text();
        model.free();
      }
      return { ...texts, kept: bytes.byteLength };
    }, cases[0]);
    assert.equal(texts.kept, 1_515_360);
    delete texts.kept;
    assert.equal(Object.keys(texts).length, 10);
    for (const [name, text] of Object.entries(texts)) assert.equal(text, cases[0].text, name);
  });

  test('progress and card come while the file comes', async () => {
    server.faults.set('shakespeare.gguf', { slow: 50_000 });
    const seen = await inPage(async () => {
      const seen = { cards: [], progress: [], name: '' };
      const onCard = (card) => seen.cards.push({ name: card.name, at: seen.progress.at(-1)?.loaded ?? 0 });
      const model = await sterna.load('/models/shakespeare.gguf', {
        cache: false,
        onProgress: (p) => seen.progress.push(p),
        onCard,
      });
      seen.name = model.info.name;
      model.free();
      return seen;
    });
    server.faults.set('shakespeare.gguf', {});
    assert.equal(seen.name, 'Shakespeare');
    assert.equal(seen.cards.length, 1);
    assert.ok(seen.cards[0].at < 1_515_360, `the card came at ${seen.cards[0].at}`);
    assert.ok(seen.progress.length > 5);
    assert.ok(
      seen.progress.every(({ loaded, total, phase }, i) => {
        return total === 1_515_360 && phase === 'download' && loaded > (seen.progress[i - 1]?.loaded ?? 0);
      }),
    );
    assert.equal(seen.progress.at(-1).loaded, 1_515_360);
  });

  test('a signal stops a load, and its worker', async () => {
    const fault = { slow: 10_000 };
    server.faults.set('shakespeare.gguf', fault);
    const { page, close } = await openPage(browser, server.url);
    const code = await page.evaluate(async () => {
      const { load } = await import('/dist/index.js');
      const controller = new AbortController();
      const onProgress = ({ loaded }) => loaded > 50_000 && controller.abort();
      return load('/models/shakespeare.gguf', { signal: controller.signal, onProgress }).catch((error) => error.code);
    });
    assert.equal(code, 'aborted');
    await gone(page);
    assert.ok(fault.closedAt < 1_000_000, 'the server went on sending');
    server.faults.set('shakespeare.gguf', {});
    const left = await page.evaluate(async () => (await import('/dist/index.js')).cache.list());
    assert.deepEqual(left, [], 'what was not loaded is not kept');
    await close();
  });

  test('a generation stops when the loop is left or the signal fires, within a token', async () => {
    const seen = await inPage(async ({ prompt, options }) => {
      const model = await sterna.load('/models/shakespeare.gguf', { cache: false });
      const endless = { slide: true, ignoreEos: true, seed: 1 };
      let pieces = 0;
      for await (const _ of model.generate('A', endless)) if (++pieces === 20) break;
      let started = performance.now();
      await model.tokenize('A');
      const afterBreak = performance.now() - started;
      const controller = new AbortController();
      const generation = model.generate('A', { ...endless, signal: controller.signal });
      setTimeout(() => controller.abort(), 200);
      const code = await codeOf(generation.text());
      started = performance.now();
      const text = await model.generate(prompt, options).text();
      model.free();
      return { pieces, afterBreak, code, text };
    }, cases[0]);
    assert.equal(seen.pieces, 20);
    assert.equal(seen.code, 'aborted');
    assert.ok(seen.afterBreak < 1000, `the next call waited ${seen.afterBreak} ms`);
    assert.equal(seen.text, cases[0].text);
  });

  test('the page stays awake, and a reader that is slow holds the worker back', async () => {
    const { gap, seconds, tokens } = await inPage(async () => {
      const model = await sterna.load('/models/shakespeare.gguf', { cache: false });
      let gap = 0;
      let last = performance.now();
      const timer = setInterval(() => {
        const now = performance.now();
        gap = Math.max(gap, now - last);
        last = now;
      }, 5);
      const generation = model.generate('A', { seed: 1, slide: true, maxTokens: 1500 });
      await generation.text();
      clearInterval(timer);
      // The first batch is read and no more: two may have been made.
      const slow = model.generate('A', { seed: 1, slide: true, maxTokens: 5000 });
      const reader = slow[Symbol.asyncIterator]();
      await reader.next();
      await new Promise((done) => setTimeout(done, 500));
      for (let i = 0; i < 3; i++) await reader.next();
      const { tokens } = slow.stats;
      await reader.return();
      model.free();
      return { gap, seconds: generation.stats.seconds, tokens };
    });
    assert.ok(gap < 500 * seconds, `the page stood still for ${gap} ms of ${seconds} s`);
    assert.ok(tokens < 1000, `${tokens} tokens were made ahead`);
  });

  test('free gives the memory back: worker and pool are gone', async () => {
    const { page, close } = await openPage(browser, server.url);
    await page.evaluate(async () => {
      const { load } = await import('/dist/index.js');
      globalThis.models = [await load('/models/shakespeare.gguf', { threads: 2 }), await load('/models/mnist.gguf')];
    });
    // Two models at once: each has a worker, and a pool.
    assert.ok(page.workers().length >= 4);
    const both = await page.evaluate(async () => {
      const [text, digits] = globalThis.models;
      const [words, said] = await Promise.all([
        text.generate('A', { maxTokens: 20, seed: 1 }).text(),
        digits.classify(new Uint8Array(784)),
      ]);
      text.free();
      await text.closed;
      const later = await digits.classify(new Uint8Array(784));
      digits.free();
      return { words: words.length, same: said.label === later.label };
    });
    assert.deepEqual(both, { words: 20, same: true });
    await gone(page);
    await close();
  });

  test('no isolation: one thread, the same text', async () => {
    const seen = await inPage(
      async ({ prompt, options }) => {
        const model = await sterna.load('/models/shakespeare.gguf', { threads: 4 });
        const { variant, threads } = model.info;
        return { variant, threads, text: await model.generate(prompt, options).text() };
      },
      cases[0],
      { url: bare.url },
    );
    assert.deepEqual(seen, { variant: 'relaxed', threads: 1, text: cases[0].text });
  });

  test('threads that do not start give way to one', { timeout: 60_000 }, async () => {
    for (const fault of ['silent', 'failing']) {
      const seen = await inPage(
        async ({ prompt, options }) => {
          const model = await sterna.load('/models/shakespeare.gguf', { threads: 2, cache: false });
          const { variant, threads, warnings } = model.info;
          return { variant, threads, warned: warnings.filter((text) => text.includes('did not start')).length, text: await model.generate(prompt, options).text() };
        },
        cases[0],
        {
          prepare: `globalThis.Worker = class extends Worker {
            constructor(url, options) {
              super(String(url).includes('-pool') ? ${fault === 'silent' ? "'data:text/javascript,'" : "'/missing.js'"} : url, options);
            }
          }`,
        },
      );
      assert.deepEqual(seen, { variant: 'relaxed', threads: 1, warned: 1, text: cases[0].text }, fault);
    }
  });

  test('a worker that dies closes its model', async () => {
    const seen = await inPage(
      async () => {
        const model = await sterna.load('/models/shakespeare.gguf', { threads: 1, cache: false });
        const running = codeOf(model.generate('A', { seed: 1, slide: true }).text());
        await new Promise((done) => setTimeout(done, 100));
        workers[0].dispatchEvent(new ErrorEvent('error', { message: 'killed' }));
        const codes = [await running, await codeOf(model.tokenize('A'))];
        await model.closed;
        return codes;
      },
      undefined,
      {
        prepare: `globalThis.workers = [];
          globalThis.Worker = class extends Worker {
            constructor(...all) { super(...all); workers.push(this); }
          }`,
      },
    );
    assert.deepEqual(seen, ['crashed', 'crashed']);
  });

  test('what is missing is said: SIMD, the worker, the model', async () => {
    const load = () => codeOf(sterna.load('/models/mnist.gguf'));
    assert.equal(await inPage(load, undefined, { prepare: 'WebAssembly.validate = () => false' }), 'no-simd');
    for (const name of ['relaxed-threads.js', 'relaxed.js', 'simd128.js']) bare.faults.set(name, { status: 404 });
    assert.equal(await inPage(load, undefined, { url: bare.url }), 'crashed');
    bare.faults.clear();
    assert.equal(await inPage(() => codeOf(sterna.load('/models/none.gguf'))), 'not-found');
    assert.equal(await inPage(() => codeOf(sterna.load('http://127.0.0.1:9/x.gguf'))), 'network');
    assert.equal(await inPage(() => codeOf(sterna.load('http://['))), 'invalid-argument');
    const unreadable = async () => {
      const blob = new Blob(['GGUF']);
      blob.slice = () => ({ arrayBuffer: () => Promise.reject(new DOMException('gone', 'NotReadableError')) });
      return codeOf(sterna.load(blob));
    };
    assert.equal(await inPage(unreadable), 'storage');
  });

  test('digits from a canvas', async () => {
    const labels = await inPage(async (digits) => {
      const model = await sterna.load('/models/mnist.gguf', { text: false, cache: false });
      const labels = [model.info.variant];
      for (const lines of Object.values(digits)) {
        const canvas = new OffscreenCanvas(300, 300).getContext('2d');
        canvas.lineWidth = 24;
        canvas.lineCap = canvas.lineJoin = 'round';
        canvas.strokeStyle = 'rebeccapurple';
        for (const points of lines) {
          canvas.beginPath();
          for (const [x, y] of points) canvas.lineTo(300 * x, 300 * y);
          canvas.stroke();
        }
        labels.push((await model.classifyDrawing(canvas.getImageData(0, 0, 300, 300))).label);
      }
      model.free();
      return labels;
    }, DIGITS);
    assert.deepEqual(labels, ['small-relaxed', ...Object.keys(DIGITS).map(Number)]);
  });

  test('downloads are kept, found offline, listed, and removed', async () => {
    const { page, close } = await openPage(browser, server.url);
    const run = (cache = true) =>
      page.evaluate(
        async ({ prompt, options, cache }) => {
          const sterna = await import('/dist/index.js');
          const phases = new Set();
          const onProgress = ({ phase }) => phases.add(phase);
          const model = await sterna.load('/made/changing.gguf', { onProgress, cache }).catch((error) => error);
          if (model instanceof Error) return model.code ?? String(model);
          const text = await model.generate(prompt, options).text();
          model.free();
          return { phases: [...phases], text, list: await sterna.cache.list(), size: await sterna.cache.size() };
        },
        { ...cases[0], cache },
      );
    const gets = () =>
      server.log.filter(({ method, path }) => method === 'GET' && path === '/made/changing.gguf').length;
    const url = `${server.url}/made/changing.gguf`;

    const first = await run();
    assert.deepEqual(first.phases, ['download']);
    assert.equal(first.text, cases[0].text);
    assert.equal(first.size, 1_515_360);
    assert.deepEqual(
      first.list.map(({ url, bytes }) => ({ url, bytes })),
      [{ url, bytes: 1_515_360 }],
    );
    assert.ok(Math.abs(new Date(first.list[0].stored) - Date.now()) < 60_000);

    const second = await run();
    assert.deepEqual(second.phases, ['cache']);
    assert.equal(second.text, cases[0].text);
    assert.equal(gets(), 1);

    server.faults.set('changing.gguf', { down: true });
    const offline = await run();
    assert.deepEqual(offline.phases, ['cache']);
    assert.equal(offline.text, cases[0].text);
    assert.equal(await run(false), 'network');

    server.faults.set('changing.gguf', { etag: '"another"' });
    const changed = await run();
    assert.deepEqual(changed.phases, ['download']);
    assert.equal(changed.list.length, 1);
    server.faults.set('changing.gguf', { anonymous: true });
    assert.deepEqual((await run()).phases, ['cache'], 'a server that says nothing has not changed it');

    // What rots in the cache is fetched again.
    await page.evaluate(async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('sterna-models');
      for await (const [name, handle] of folder.entries()) {
        if (!name.endsWith('.gguf')) continue;
        const file = await handle.createWritable({ keepExistingData: true });
        await file.write({ type: 'write', position: 0, data: new Uint8Array(100) });
        await file.close();
      }
    });
    const mended = await run();
    assert.deepEqual(mended.phases, ['cache', 'download']);
    assert.equal(mended.text, cases[0].text);
    assert.deepEqual((await run()).phases, ['cache']);

    const removed = await page.evaluate(async () => {
      const { cache } = await import('/dist/index.js');
      const names = async () => {
        const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('sterna-models');
        const all = [];
        for await (const name of folder.keys()) all.push(name);
        return all;
      };
      const before = (await names()).length;
      const answers = [
        await cache.delete('/made/changing.gguf'),
        await cache.delete('/made/changing.gguf'),
        await cache.size(),
      ];
      return { before, after: await names(), answers };
    });
    assert.deepEqual(removed, { before: 2, after: [], answers: [true, false, 0] });
    await run();
    assert.deepEqual(
      await page.evaluate(async () => {
        const { cache } = await import('/dist/index.js');
        await cache.clear();
        return cache.list();
      }),
      [],
    );
    server.faults.clear();
    await close();
  });

  test('a full disk only means that nothing is kept', async () => {
    const { page, context, close } = await openPage(browser, server.url);
    const client = await context.newCDPSession(page);
    await client.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 300_000 });
    const seen = await page.evaluate(async ({ prompt, options }) => {
      const { load, cache } = await import('/dist/index.js');
      const model = await load('/models/shakespeare.gguf');
      return { text: await model.generate(prompt, options).text(), list: await cache.list() };
    }, cases[0]);
    assert.deepEqual(seen, { text: cases[0].text, list: [] });
    await close();
  });

  test('a download that breaks is taken up again, and kept', async () => {
    server.faults.set('shakespeare.gguf', { drops: 2 });
    const seen = await inPage(async ({ prompt, options }) => {
      const model = await sterna.load('/models/shakespeare.gguf');
      return { text: await model.generate(prompt, options).text(), size: await sterna.cache.size() };
    }, cases[0]);
    server.faults.clear();
    assert.deepEqual(seen, { text: cases[0].text, size: 1_515_360 });
  });

  test('a body that was compressed on its way, from here and from elsewhere', async () => {
    for (const from of [server, bare]) {
      from.faults.set('shakespeare.gguf', { gzip: true });
      const seen = await inPage(
        async ({ url, prompt, options }) => {
          let total = 0;
          const onProgress = (p) => (total = p.total);
          const texts = [];
          for (let i = 0; i < 2; i++) {
            const model = await sterna.load(url, { onProgress });
            texts.push(await model.generate(prompt, options).text());
            model.free();
          }
          return { texts, total: total ?? 0, size: await sterna.cache.size() };
        },
        { ...cases[0], url: `${from.url}/models/shakespeare.gguf` },
      );
      from.faults.clear();
      assert.deepEqual(seen, { texts: [cases[0].text, cases[0].text], total: 1_515_360, size: 1_515_360 });
    }
    const { length } = bare.log.filter(({ method, path }) => method === 'GET' && path === '/models/shakespeare.gguf');
    assert.ok(length >= 2, 'the first length was of the compressed body');
  });

  test('chat', async () => {
    const chunks = await inPage(async () => {
      const model = await sterna.load('/made/chat.gguf', { cache: false });
      const chunks = [];
      for await (const chunk of model.chat([{ role: 'user', content: 'the' }], {
        maxTokens: 5,
        seed: 1,
        ignoreEos: true,
      })) {
        chunks.push(chunk);
      }
      model.free();
      return chunks;
    });
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  });

  test('kernels, with threads', async () => {
    const results = await inPage(() => sterna.benchmark({ rows: 512, cols: 512, seconds: 0.02, threads: 2 }));
    assert.deepEqual(
      results.map(({ kernel }) => kernel),
      ['relaxed-simd', 'simd128', 'scalar'],
    );
    assert.ok(results.every(({ gops, threads }) => gops > 0 && threads === 2));
    assert.ok(results[0].gops > results[2].gops);
  });
});
