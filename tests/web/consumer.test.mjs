// The packed package in a stranger's app: installed from its tarball, type-checked, bundled by vite as it comes, run in
// Chromium from the build and from vite's development server.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { chromiumPath, launch, openPage, root, serve } from './support.mjs';

const app = join(root, 'target', 'web-consumer');
const [{ text }] = JSON.parse(readFileSync(join(root, 'tests', 'web', 'expected.json'), 'utf8')).cases;

function run(program, args, cwd = app) {
  const done = spawnSync(program, args, { cwd, encoding: 'utf8', maxBuffer: 1 << 26 });
  assert.equal(done.status, 0, `${program} ${args.join(' ')}\n${done.stdout}\n${done.stderr}`);
  return done.stdout;
}

const skip = chromiumPath() ? false : 'no chromium on the path';
if (skip) console.log(`skipped: the package in an app: ${skip}`);

describe('an app that installs the package', { skip }, () => {
  let browser;
  let contents;
  before(async () => {
    if (!existsSync(join(root, 'dist', 'wasm', 'simd128', 'sterna_bg.wasm')))
      throw new Error('run npm run build first');
    mkdirSync(app, { recursive: true });
    for (const entry of readdirSync(app)) if (entry !== 'node_modules') rmSync(join(app, entry), { recursive: true });
    cpSync(join(root, 'tests', 'web', 'consumer'), app, { recursive: true });
    const [packed] = JSON.parse(run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', app], root));
    contents = packed.files.map(({ path }) => path);
    rmSync(join(app, 'node_modules', 'sterna'), { recursive: true, force: true });
    run('npm', ['install', '--no-audit', '--no-fund', '--no-save', join(app, packed.filename)]);
    mkdirSync(join(app, 'public'));
    for (const name of ['shakespeare.gguf', 'mnist.gguf'])
      copyFileSync(join(root, 'models', name), join(app, 'public', name));
    browser = await launch();
  });
  after(() => browser?.close());

  test('the tarball has what it needs and no more', () => {
    for (const path of ['README.md', 'LICENSE-MIT', 'LICENSE-APACHE', 'dist/index.js', 'dist/index.d.ts']) {
      assert.ok(contents.includes(path), path);
    }
    const variants = readdirSync(join(root, 'dist', 'wasm'));
    for (const variant of variants) assert.ok(contents.includes(`dist/wasm/${variant}/sterna_bg.wasm`), variant);
    assert.deepEqual(
      contents.filter((path) => !/^(dist\/|LICENSE|README|package\.json)/.test(path)),
      [],
    );
    const { dependencies } = JSON.parse(readFileSync(join(app, 'node_modules', 'sterna', 'package.json'), 'utf8'));
    assert.equal(dependencies, undefined);
  });

  test('types are found, and hold without skipLibCheck', () => {
    run(process.execPath, [join('node_modules', 'typescript', 'bin', 'tsc')]);
    // Another way to resolve modules, and no DOM types but Node's own.
    const types = [
      '--lib',
      'ES2023',
      '--module',
      'nodenext',
      '--moduleResolution',
      'nodenext',
      '--types',
      'node',
      '--typeRoots',
      join(root, 'node_modules', '@types'),
    ];
    run(process.execPath, [join('node_modules', 'typescript', 'bin', 'tsc'), '-p', 'node.json', ...types]);
  });

  test('vite builds it without settings, and the build runs', async () => {
    const said = run(process.execPath, [join('node_modules', 'vite', 'bin', 'vite.js'), 'build']);
    assert.doesNotMatch(said, /externalized|warn/i);
    const built = join(app, 'dist');
    const server = await serve({ folders: { '/app/': built, '/assets/': join(built, 'assets'), '/': built } });
    try {
      await check(`${server.url}/index.html`, true);
    } finally {
      await server.close();
    }
  });

  test("vite's development server runs it", async () => {
    const vite = spawn(
      process.execPath,
      [join('node_modules', 'vite', 'bin', 'vite.js'), '--port', '0', '--host', '127.0.0.1'],
      { cwd: app },
    );
    try {
      const url = await new Promise((found, fail) => {
        let said = '';
        const hear = (data) => {
          said += String(data).replace(/\x1b\[[0-9;]*m/g, '');
          const at = said.match(/http:\/\/127\.0\.0\.1:\d+\//);
          if (at) found(at[0]);
        };
        vite.stdout.on('data', hear);
        vite.stderr.on('data', hear);
        vite.on('exit', () => fail(new Error(said)));
      });
      await check(url, false);
    } finally {
      vite.kill();
    }
  });

  async function check(url, isolated) {
    const { page, close } = await openPage(browser, url);
    await page
      .waitForFunction(() => globalThis.seen, null, { timeout: 60_000 })
      .catch(async (error) => {
        await close();
        throw error;
      });
    const seen = await page.evaluate(() => globalThis.seen);
    assert.equal(seen.text, text);
    assert.equal(seen.loaded, 1_515_360);
    const variant = isolated && seen.threads > 1 ? 'relaxed-threads' : 'relaxed';
    assert.deepEqual(seen.variants, [variant, variant, 'small-relaxed']);
    if (!isolated) assert.equal(seen.threads, 1);
    assert.deepEqual([seen.ids, seen.back, seen.code], [5, 'To be', 'no-chat-template']);
    assert.equal(seen.classes, 10);
    assert.equal(seen.kept, 2);
    assert.deepEqual(seen.kernels, ['relaxed-simd', 'simd128', 'scalar']);
    await close();
  }
});
