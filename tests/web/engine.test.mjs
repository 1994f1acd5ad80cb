// The inside of the worker against a glue that is not WebAssembly: order, batches, credits, cancelling, errors.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Engine } from '../../dist/engine.js';

/** A glue whose model writes `length` tokens of `milliseconds` each. */
function fake({
  length = 10,
  milliseconds = 0,
  pieces = 3,
  card = '{"name":"fake"}',
  fail = {},
  memory = new ArrayBuffer(64),
} = {}) {
  const log = [];
  const busy = (time) => {
    for (const until = performance.now() + time; performance.now() < until;);
  };
  const failing = (what) => {
    if (fail[what]) throw fail[what];
  };
  class Model {
    kind = 'text';
    finish = undefined;
    drawn = 0;
    cached = 3;
    context = 64;
    #left = 0;
    card = () => card;
    metadata = () => '{}';
    memory = () => 42;
    encode = (text, addSpecial, parseSpecial) => (
      log.push(['encode', text, addSpecial, parseSpecial]),
      new Uint32Array([1, 2])
    );
    decode = (ids) => [...ids].join(' ');
    classify = (pixels) => (failing('classify'), new Float32Array([0.25, 0.75]));
    prompt = (text) => (log.push(['prompt', text]), failing('prompt'), (this.#left = pieces), 5);
    promptTokens = (ids) => (log.push(['tokens', ...ids]), (this.#left = 1), ids.length);
    promptChat = (messages, extras) => (log.push(['chat', messages, extras]), (this.#left = 1), 7);
    prefill = () => (busy(milliseconds), log.push(['prefill']), --this.#left <= 0);
    start = (options) => {
      log.push(['start', options]);
      this.drawn = 0;
      this.finish = undefined;
    };
    next = () => {
      failing('next');
      if (this.drawn === length) {
        this.finish = 'length';
        return undefined;
      }
      busy(milliseconds);
      log.push(['next']);
      return `t${this.drawn++} `;
    };
  }
  class Loader {
    constructor(...all) {
      log.push(['Loader', ...all]);
      failing('loader');
    }
    push = (chunk) => (failing('push'), log.push(['push', chunk.byteLength]));
    card = () => (log.some(([what]) => what === 'push') ? card : undefined);
    finish = () => (failing('finish'), new Model());
  }
  const glue = {
    default: async () => ({ memory: { buffer: memory } }),
    kernels: () => ['simd128', 'scalar'],
    threads: () => 1,
    centre: (canvas, width, height, dark) => (
      log.push(['centre', canvas.length, width, height, dark]),
      new Uint8Array(784)
    ),
    benchKernel: (_kernel, _rows, _cols, _tokens, iterations) => iterations / 1000,
    Loader,
  };
  return { glue, log };
}

/** An engine with a line to it. */
function engine(settings) {
  const { glue, log } = fake(settings);
  const heard = [];
  const waiting = [];
  let hear;
  new Engine(glue, {
    post(message) {
      heard.push(message);
      for (const check of [...waiting]) check();
    },
    listen: (f) => (hear = f),
    pause: () => new Promise((done) => setImmediate(done)),
  });
  /** The first message that is of a type (and a call). */
  const when = (type, id) =>
    new Promise((resolve) => {
      const check = () => {
        const found = heard.find((message) => message.type === type && (id === undefined || message.id === id));
        if (!found) return;
        waiting.splice(waiting.indexOf(check), 1);
        resolve(found);
      };
      waiting.push(check);
      check();
    });
  return { say: (message) => hear(message), heard, log, when };
}

async function loaded(settings) {
  const it = engine(settings);
  it.say({ type: 'init', module: null, threads: 1 });
  await it.when('ready');
  it.say({ type: 'open', length: 3, kernel: undefined, context: undefined, store: undefined });
  it.say({ type: 'chunk', bytes: new Uint8Array(3) });
  it.say({ type: 'finish' });
  await it.when('loaded');
  return it;
}

const generate = (id, credits = 2, prompt = { text: 'p' }) => ({
  type: 'call',
  id,
  op: { op: 'generate', prompt, options: { seed: 1 }, give: 'text', credits },
});
const rest = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

test('a load: chunks are acknowledged, the card comes once and early', async () => {
  const it = engine();
  it.say({ type: 'init', module: null, threads: 1 });
  assert.deepEqual(await it.when('ready'), { type: 'ready', threads: 1 });
  it.say({ type: 'open', length: 5, kernel: 'scalar', context: 64, store: undefined });
  it.say({ type: 'chunk', bytes: new Uint8Array(3) });
  it.say({ type: 'chunk', bytes: new Uint8Array(2) });
  await it.when('card');
  it.say({ type: 'finish' });
  await it.when('loaded');
  assert.deepEqual(
    it.heard.map(({ type }) => type),
    ['ready', 'card', 'ack', 'ack', 'loaded'],
  );
  assert.deepEqual(it.log[0], ['Loader', 5, 'scalar', 64]);
});

for (const what of ['loader', 'push', 'finish']) {
  test(`a load that fails in ${what} ends the worker with the code`, async () => {
    const it = engine({ fail: { [what]: Object.assign(new Error('broken'), { code: 'damaged' }) } });
    it.say({ type: 'init', module: null, threads: 1 });
    it.say({ type: 'open', length: 3 });
    it.say({ type: 'chunk', bytes: new Uint8Array(3) });
    it.say({ type: 'finish' });
    assert.deepEqual((await it.when('fatal')).error, { code: 'damaged', message: 'broken' });
  });
}

test('a generation: the first piece goes out alone, then batches, then the result', async () => {
  const it = await loaded({ length: 100 });
  it.say(generate(1));
  const { value } = await it.when('result', 1);
  const batches = it.heard.filter(({ type }) => type === 'pieces').map(({ pieces }) => pieces);
  assert.equal(batches[0].length, 1);
  assert.equal(batches.flat().length, 100);
  assert.equal(batches.flat()[99], 't99 ');
  assert.equal(value.finish, 'length');
  assert.equal(value.stats.tokens, 100);
  assert.equal(value.stats.promptTokens, 5);
  assert.equal(value.stats.cachedTokens, 3);
  assert.ok(value.stats.secondsToFirst > 0 && value.stats.secondsToFirst <= value.stats.seconds);
  assert.equal(it.log.filter(([what]) => what === 'prefill').length, 3);
});

test('a batch takes about 16 ms, and a slow token is a batch', async () => {
  const it = await loaded({ length: 40, milliseconds: 4 });
  it.say(generate(1, 100));
  await it.when('result', 1);
  const batches = it.heard.filter(({ type }) => type === 'pieces').map(({ pieces }) => pieces.length);
  assert.ok(Math.max(...batches) <= 5, `batches of ${batches}`);
  const slow = await loaded({ length: 3, milliseconds: 20 });
  slow.say(generate(1, 100));
  await slow.when('result', 1);
  assert.deepEqual(
    slow.heard.filter(({ type }) => type === 'pieces').map(({ pieces }) => pieces.length),
    [1, 1, 1],
  );
});

test('a generation waits for its reader', async () => {
  const it = await loaded({ length: 10, milliseconds: 20 });
  const batches = () => it.heard.filter(({ type }) => type === 'pieces').length;
  it.say(generate(1, 2));
  while (batches() < 2) await rest(10);
  await rest(200);
  assert.equal(batches(), 2);
  it.say({ type: 'credit', id: 1 });
  while (batches() < 3) await rest(10);
  await rest(100);
  assert.equal(batches(), 3);
  it.say({ type: 'cancel', id: 1 });
});

test('cancelling stops within a token, waiting or not, and the next call has its turn', async () => {
  const it = await loaded({ length: 1000, milliseconds: 20 });
  it.say(generate(1, 1000));
  await it.when('pieces', 1);
  it.say({ type: 'cancel', id: 1 });
  const before = it.log.filter(([what]) => what === 'next').length;
  it.say(generate(2, 1));
  await it.when('pieces', 2);
  assert.ok(it.log.filter(([what]) => what === 'next').length <= before + 2);
  // It waits for a credit now.
  it.say({ type: 'cancel', id: 2 });
  it.say({ type: 'call', id: 3, op: { op: 'memory' } });
  assert.deepEqual((await it.when('result', 3)).value, { used: 42, reserved: 64 });
  assert.equal(
    it.heard.some(({ type, id }) => type === 'result' && id !== 3),
    false,
  );
});

test('cancelling stops a prompt between its pieces, and a call before its turn', async () => {
  const it = await loaded({ pieces: 1000, milliseconds: 5 });
  it.say(generate(1));
  it.say(generate(2));
  await rest(20);
  it.say({ type: 'cancel', id: 2 });
  it.say({ type: 'cancel', id: 1 });
  it.say({ type: 'call', id: 3, op: { op: 'encode', text: 'x', addSpecial: true, parseSpecial: false } });
  assert.deepEqual([...(await it.when('result', 3)).value], [1, 2]);
  assert.equal(it.log.filter(([what]) => what === 'prompt').length, 1);
  assert.ok(it.log.filter(([what]) => what === 'prefill').length < 20);
});

test('all kinds of prompts and calls', async () => {
  const it = await loaded({ length: 1 });
  it.say(generate(1, 2, { tokens: new Uint32Array([3, 4]) }));
  it.say(generate(2, 2, { messages: '[]', extras: '{}' }));
  it.say({ type: 'call', id: 3, op: { op: 'decode', ids: new Uint32Array([3, 4]) } });
  it.say({
    type: 'call',
    id: 4,
    op: { op: 'drawing', canvas: { grey: new Uint8Array(6), width: 3, height: 2, dark: true } },
  });
  it.say({ type: 'call', id: 5, op: { op: 'bench', kernel: 'scalar', rows: 1, cols: 256, tokens: 1, seconds: 0.01 } });
  it.say({ type: 'call', id: 6, op: { op: 'kernels' } });
  assert.deepEqual((await it.when('result', 6)).value, ['simd128', 'scalar']);
  assert.deepEqual((await it.when('result', 5)).value, { seconds: 0.016, iterations: 16 });
  assert.equal((await it.when('result', 4)).value.seen.length, 784);
  assert.equal((await it.when('result', 3)).value, '3 4');
  assert.deepEqual(
    it.log.filter(([what]) => ['tokens', 'chat', 'centre'].includes(what)),
    [
      ['tokens', 3, 4],
      ['chat', '[]', '{}'],
      ['centre', 6, 3, 2, true],
    ],
  );
});

test('a call that fails leaves the worker alive; a trap does not', async () => {
  const fail = { prompt: Object.assign(new Error('too long'), { code: 'context-full' }) };
  const it = await loaded({ fail });
  it.say(generate(1));
  assert.deepEqual((await it.when('error', 1)).error, { code: 'context-full', message: 'too long' });
  fail.prompt = new Error('of no kind');
  it.say(generate(2));
  assert.equal((await it.when('error', 2)).error.code, 'crashed');
  fail.prompt = undefined;
  fail.next = new WebAssembly.RuntimeError('unreachable');
  it.say(generate(3));
  assert.equal((await it.when('fatal')).error.code, 'crashed');
  it.say({ type: 'call', id: 4, op: { op: 'memory' } });
  await rest(20);
  assert.equal(it.heard.at(-1).type, 'fatal');
});

test('memory that runs out has a code of its own', async () => {
  for (const [error, code] of [
    [new RangeError('Array buffer allocation failed'), 'out-of-memory'],
    [Object.assign(new Error('3 GiB more'), { code: 'out-of-memory' }), 'out-of-memory'],
    [new TypeError('a defect'), 'crashed'],
  ]) {
    const it = engine({ fail: { push: error } });
    it.say({ type: 'init', module: null, threads: 1 });
    it.say({ type: 'open', length: 3 });
    it.say({ type: 'chunk', bytes: new Uint8Array(3) });
    assert.equal((await it.when('fatal')).error.code, code);
  }
  // A trap in a memory that has nowhere to grow.
  const fail = { push: new WebAssembly.RuntimeError('unreachable') };
  const it = engine({ fail, memory: { byteLength: 4 * 2 ** 30 - 65536 } });
  it.say({ type: 'init', module: null, threads: 1 });
  it.say({ type: 'open', length: 3 });
  it.say({ type: 'chunk', bytes: new Uint8Array(3) });
  assert.equal((await it.when('fatal')).error.code, 'out-of-memory');
});
