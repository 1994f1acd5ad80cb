// Models in several files, in Node and in Chromium: what they write is what the whole file writes.
//
//   node --test tests/web/split.test.mjs
import assert from 'node:assert/strict';
import { mkdtempSync, openAsBlob, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { chromiumPath, launch, openPage, root, serve, splitGguf } from './support.mjs';

const { SternaError, load } = await import(pathToFileURL(join(root, 'dist', 'index.js')));
const { partsOf } = await import(pathToFileURL(join(root, 'dist', 'parts.js')));

const { cases } = JSON.parse(readFileSync(join(root, 'tests', 'web', 'expected.json'), 'utf8'));
const [{ prompt, options, text }] = cases;
const whole = readFileSync(join(root, 'models', 'shakespeare.gguf'));
const parts = splitGguf(whole, 3);
const total = parts.reduce((sum, part) => sum + part.length, 0);
const names = [1, 2, 3].map((number) => `play-0000${number}-of-00003.gguf`);
const made = mkdtempSync(join(tmpdir(), 'sterna-split-'));
for (const [i, name] of names.entries()) writeFileSync(join(made, name), parts[i]);
writeFileSync(join(made, 'gap-00001-of-00002.gguf'), splitGguf(whole, 2)[0]);
const foreign = splitGguf(readFileSync(join(root, 'models', 'mnist.gguf')), 3)[1];
after(() => rmSync(made, { recursive: true, force: true }));

const fails = (promise, code, words) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof SternaError, `${error?.stack ?? error}`);
    assert.equal(error.code, code, `${error.code}: ${error.message}`);
    assert.match(error.message, words);
    return true;
  });

describe('names', () => {
  const named = (source) => partsOf(source, {}).map(({ name }) => name);
  test('an address of one part stands for all, with what follows its path', () => {
    assert.deepEqual(named('https://host.test/a/play-00002-of-00003.gguf?download=true#x'), names);
    assert.deepEqual(named(new URL('https://host.test/play-00001-of-00003.gguf')), names);
    assert.deepEqual(named('models/play-00003-of-00003.gguf'), names);
    assert.deepEqual(named({ repo: 'a/b', file: 'sub/play-00001-of-00003.gguf' }), names);
  });
  test('other names stand for themselves', () => {
    for (const name of ['play.gguf', 'play-1-of-3.gguf', 'play-00004-of-00003.gguf', 'play-00001-of-00001.gguf']) {
      assert.deepEqual(named(`https://host.test/${name}`), [name]);
    }
    assert.deepEqual(named(new Uint8Array(4)), ['']);
    assert.deepEqual(named([new Blob([]), new Blob([])]), ['', '']);
  });
  test('files that are given together are put into order, and checked', () => {
    const files = names.map((name) => new File([], name));
    assert.deepEqual(named([files[2], files[0], files[1]]), names);
    const wrong = (source, code, words) =>
      assert.throws(() => partsOf(source, {}), (error) => error.code === code && words.test(error.message));
    wrong([files[2], files[0]], 'not-found', /part 2 of 3 is missing: give play-00002-of-00003\.gguf/);
    wrong(files[0], 'not-found', /play-00002-of-00003/);
    wrong([files[0], files[0], files[1]], 'invalid-argument', /more than once/);
    wrong([...files, new File([], 'other.gguf')], 'invalid-argument', /other\.gguf/);
    wrong([new File([], 'a.gguf'), new File([], 'b.gguf')], 'invalid-argument', /a\.gguf, b\.gguf/);
    wrong([], 'invalid-argument', /empty/);
  });
});

describe('in Node', () => {
  test('a path, a list of paths, and files give the model of the whole', async () => {
    const blobs = await Promise.all(names.map((name) => openAsBlob(join(made, name))));
    const files = names.map((name, i) => new File([blobs[i]], name)).reverse();
    for (const source of [join(made, names[1]), names.map((name) => join(made, name)), files, blobs]) {
      const seen = [];
      const model = await load(source, { onProgress: (progress) => seen.push(progress) });
      assert.equal(await model.generate(prompt, options).text(), text);
      assert.equal(model.info.fileBytes, total);
      assert.deepEqual(seen.at(-1), { loaded: total, total, phase: 'read' });
      assert.ok(seen.every((progress, i) => i === 0 || progress.loaded > seen[i - 1].loaded));
      model.free();
    }
  });

  test('what is missing or foreign is named', async () => {
    await fails(load(join(made, 'gap-00001-of-00002.gguf')), 'not-found', /part 2 of 2 \(gap-00002-of-00002\.gguf\)/);
    await fails(load(parts[0]), 'unsupported', /one of 3 parts/);
    await fails(load([parts[0], parts[2], parts[1]].map((part) => new Blob([part]))), 'invalid-argument', /./);
    await fails(load([parts[0], foreign, parts[2]].map((part) => new Blob([part]))), 'damaged', /./);
    const cut = [parts[0], parts[1], parts[2].subarray(0, parts[2].length - 64)];
    await fails(load(cut.map((part) => new Blob([part]))), 'truncated', /./);
  });
});

describe('in Chromium', { skip: chromiumPath() === null && 'Chromium is not installed' }, () => {
  let server;
  let browser;
  before(async () => {
    server = await serve({ folders: { '/dist/': join(root, 'dist'), '/made/': made } });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  test('an address finds its siblings, each part is kept, and comes from the device then', async () => {
    const { page, close } = await openPage(browser, server.url);
    const run = () =>
      page.evaluate(
        async ({ prompt, options, name }) => {
          const sterna = await import('/dist/index.js');
          const phases = new Set();
          let last;
          const onProgress = (progress) => (phases.add(progress.phase), (last = progress));
          const model = await sterna.load(`/made/${name}`, { onProgress });
          const text = await model.generate(prompt, options).text();
          model.free();
          const kept = (await sterna.cache.list()).map(({ url }) => url.split('/').at(-1)).sort();
          return { text, phases: [...phases], last, kept };
        },
        { prompt, options, name: names[0] },
      );
    const done = { loaded: total, total };
    assert.deepEqual(await run(), { text, phases: ['download'], last: { ...done, phase: 'download' }, kept: names });
    assert.deepEqual(await run(), { text, phases: ['cache'], last: { ...done, phase: 'cache' }, kept: names });
    await close();
  });
});
