// What the tests of the demo site share: the browser, servers of the built site, pages that watch for what must not
// happen, and files to drop on them.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

import { createSiteServer, listen } from '../../web/serve.mjs';

export const project = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const site = join(project, 'target', 'site');
export const screenshots = join(project, 'target', 'screenshots');
export const PAGES = ['index', 'shakespeare', 'model', 'speed'];

/** Puts the site together from what is built, which also checks the budget of its first page; gives what was printed. */
export function assemble() {
  const args = process.env.STERNA_DIST ? ['--dist', process.env.STERNA_DIST] : [];
  return execFileSync(process.execPath, [join(project, 'web', 'site.mjs'), ...args], { cwd: project, encoding: 'utf8' });
}

/** Debian's Chromium, or another on the PATH. */
export function launch() {
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  const path = process.env.PATH.split(delimiter).flatMap((folder) => names.map((name) => join(folder, name))).find((file) => existsSync(file));
  assert.ok(path, `none of ${names.join(', ')} is on the PATH; Debian's package is chromium`);
  return chromium.launch({ executablePath: path, args: ['--no-sandbox'] });
}

/** A server of the site: { url, served, close }. `served` lists what was sent since, as [path, bytes]. */
export async function serve(options = {}) {
  const served = [];
  const server = createSiteServer({ root: site, served: (path, bytes) => served.push([path, bytes]), ...options });
  const url = await listen(server, options);
  return {
    url,
    served,
    close() {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

/**
 * A page in a fresh context, and `check`, which fails if it logged an error, threw, or asked anything but its own server.
 * The service worker is blocked unless `serviceWorkers: 'allow'` is given: most tests are about something else.
 */
export async function visit(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, serviceWorkers: 'block', ...options });
  // No test may draw: what a page draws by itself (a seed) is the same in every run.
  await context.addInitScript(() => {
    let drawn = 1;
    Math.random = () => (drawn = (drawn * 16_807) % 2_147_483_647) / 2_147_483_647;
  });
  const page = await context.newPage();
  const wrong = [];
  const origin = new URL(url).origin;
  page.on('console', (message) => message.type() === 'error' && wrong.push(`console: ${message.text()}`));
  page.on('pageerror', (error) => wrong.push(`thrown: ${error.stack ?? error.message}`));
  context.on('request', (request) => {
    if (!request.url().startsWith(origin) && !/^(blob|data):/.test(request.url())) wrong.push(`asked: ${request.url()}`);
  });
  return {
    context,
    page,
    wrong,
    async check() {
      assert.deepEqual(wrong, []);
      await context.close();
    },
  };
}

/** Waits until the text of an element is as wanted; fails with what it was. */
export async function until(page, selector, wanted, timeout = 20_000) {
  const matches = (text) => (wanted instanceof RegExp ? wanted.test(text) : text === wanted);
  const end = Date.now() + timeout;
  let text;
  do {
    text = (await page.locator(selector).textContent({ timeout }))?.trim();
    if (matches(text)) return text;
    await page.waitForTimeout(30);
  } while (Date.now() < end);
  assert.fail(`${selector} is ${JSON.stringify(text)}, not ${wanted}`);
}

/** Draws strokes on the pad with the mouse. */
export async function draw(page, strokes) {
  await page.locator('#pad').scrollIntoViewIfNeeded();
  const box = await page.locator('#pad').boundingBox();
  for (const stroke of strokes) {
    const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
    await page.mouse.move(...at(stroke[0]));
    await page.mouse.down();
    for (const corner of stroke.slice(1)) await page.mouse.move(...at(corner), { steps: 4 });
    await page.mouse.up();
  }
}

/** Drops a file on the page, as from a file manager. */
export async function drop(page, name, bytes) {
  // Base64 rather than a data: address: the page's policy lets it fetch none.
  const transfer = await page.evaluateHandle(
    ([name, base64]) => {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name));
      return transfer;
    },
    [name, Buffer.from(bytes).toString('base64')],
  );
  for (const type of ['dragenter', 'dragover', 'drop']) await page.dispatchEvent('#drop', type, { dataTransfer: transfer });
  await transfer.dispose();
}

/** A model of the core's tests. */
export const tiny = (name) => readFileSync(join(project, 'core', 'tests', 'data', 'models', `${name}.gguf`));

/** The same file with one more key, a text, in its metadata. */
export function withText(file, key, value) {
  // Header: magic, version, tensors, keys; then the keys, the tensors' directory, and data at the next multiple of 32.
  const keys = file.readBigUInt64LE(16);
  const end = endOfDirectory(file);
  const text = (words) => {
    const bytes = Buffer.from(words);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return Buffer.concat([length, bytes]);
  };
  const type = Buffer.from([8, 0, 0, 0]);
  const header = Buffer.from(file.subarray(0, 24));
  header.writeBigUInt64LE(keys + 1n, 16);
  const head = Buffer.concat([header, text(key), type, text(value), file.subarray(24, end)]);
  const aligned = (n) => Math.ceil(n / 32) * 32;
  return Buffer.concat([head, Buffer.alloc(aligned(head.length) - head.length), file.subarray(aligned(end))]);
}

function endOfDirectory(file) {
  const sizes = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
  let at = 24;
  const number = () => Number(file.readBigUInt64LE((at += 8) - 8));
  const skip = () => {
    const length = number();
    at += length;
  };
  const value = (type) => {
    if (type === 8) skip();
    else if (type === 9) {
      const item = file.readUInt32LE((at += 4) - 4);
      for (let left = number(); left > 0; left -= 1) value(item);
    } else at += sizes[type];
  };
  for (let left = Number(file.readBigUInt64LE(16)); left > 0; left -= 1) {
    skip();
    value(file.readUInt32LE((at += 4) - 4));
  }
  for (let left = Number(file.readBigUInt64LE(8)); left > 0; left -= 1) {
    skip();
    const dimensions = file.readUInt32LE((at += 4) - 4);
    at += 8 * dimensions + 4 + 8;
  }
  return at;
}

/** A picture of the whole page in target/screenshots. */
export async function screenshot(page, name) {
  mkdirSync(screenshots, { recursive: true });
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
}
