// What the measurements in a browser share: a server of this machine's files, Chromium, a page, and where it was measured.

import { spawnSync } from 'node:child_process';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { cpus } from 'node:os';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, '..', '..');

const executable = spawnSync('sh', ['-c', 'command -v chromium || command -v chromium-browser || command -v google-chrome']).stdout.toString().trim();

/** Serves page.html, the package's build and more folders by prefix, with the headers that threads need. */
export function serve(folders) {
  if (!existsSync(join(root, 'dist', 'index.js'))) throw new Error('dist/ is not built: npm run build');
  const served = { '/': join(here, 'page.html'), '/sterna/': join(root, 'dist'), ...folders };
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://x').pathname));
    const mount = Object.keys(served).reverse().find((start) => path.startsWith(start));
    const file = path === '/' ? served['/'] : join(served[mount], path.slice(mount.length));
    if (!existsSync(file) || !statSync(file).isFile()) return response.writeHead(404).end();
    response.writeHead(200, {
      'content-type': types[extname(file)] ?? 'application/octet-stream',
      'content-length': statSync(file).size,
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
    });
    if (request.method === 'HEAD') return response.end();
    createReadStream(file).pipe(response);
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done(server)));
}

/** Chromium without a window. */
export function launch() {
  if (!executable) throw new Error('no chromium on PATH');
  return chromium.launch({ executablePath: executable, args: ['--no-sandbox', '--disable-gpu'] });
}

/** A new page.html, ready to measure: no memory or compiled code is inherited. */
export async function toPage(browser, server) {
  const page = await browser.newPage();
  page.setDefaultTimeout(600_000);
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.waitForFunction(() => window.ready);
  return page;
}

/** CPU, browser, commit, date and command, for the record. */
export function about() {
  const run = (program, ...args) => spawnSync(program, args, { cwd: root }).stdout.toString().trim();
  return {
    cpu: cpus()[0].model,
    browser: run(executable, '--version'),
    commit: run('git', 'rev-parse', '--short', 'HEAD'),
    date: new Date().toISOString(),
    command: ['node', ...process.argv.slice(1)].join(' ').replaceAll(`${process.cwd()}/`, ''),
  };
}
