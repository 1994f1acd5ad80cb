// What the tests of the web package share: a server with faults, a browser, small GGUF files.
import { spawnSync } from 'node:child_process';
import { createReadStream, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

import { chromium } from 'playwright-core';

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm', '.css': 'text/css' };
const ISOLATION = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

/**
 * Serves folders by prefix, with ranges and validators, and an empty page at `/`. `faults` change how paths that end in a
 * name are answered; `log` has what was asked for.
 */
export async function serve({ isolated = true, folders }) {
  const log = [];
  const faults = new Map();
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const name = path.split('/').at(-1);
    log.push({ method: request.method, path, range: request.headers.range });
    const fault = faults.get(name) ?? {};
    const headers = {
      ...(isolated ? ISOLATION : {}),
      'cross-origin-resource-policy': 'cross-origin',
      'access-control-allow-origin': '*',
      'cache-control': 'no-store',
    };
    if (fault.down) return request.socket.destroy();
    if (fault.status) return response.writeHead(fault.status, headers).end();
    if (path === '/')
      return response
        .writeHead(200, { ...headers, 'content-type': 'text/html' })
        .end('<!doctype html><title>-</title>');
    const prefix = Object.keys(folders).find((prefix) => path.startsWith(prefix));
    const file = prefix && join(folders[prefix], normalize(path.slice(prefix.length)));
    let stat;
    try {
      stat = file && statSync(file);
    } catch {}
    if (!stat?.isFile()) return response.writeHead(404, headers).end();
    headers['content-type'] = TYPES[extname(file)] ?? 'application/octet-stream';
    if (!fault.anonymous) headers.etag = fault.etag ?? `"${stat.size}-${stat.mtimeMs}"`;
    let start = 0;
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
    if (range && !fault.noRanges) {
      start = Number(range[1]);
      headers['content-range'] = `bytes ${start}-${stat.size - 1}/${stat.size}`;
    }
    headers['content-length'] = stat.size - start;
    if (fault.gzip) {
      const body = gzipSync(readFileSync(file));
      return response
        .writeHead(200, { ...headers, 'content-encoding': 'gzip', 'content-length': body.length })
        .end(body);
    }
    response.writeHead(start > 0 ? 206 : 200, headers);
    if (request.method === 'HEAD') return response.end();
    if (fault.drops > 0) {
      // Breaks off in the middle of what is left.
      fault.drops -= 1;
      const end = start + Math.floor((stat.size - start) / 2);
      createReadStream(file, { start, end })
        .on('data', (data) => response.write(data))
        .on('end', () => {
          setTimeout(() => request.socket.destroy(), 50);
        });
      return;
    }
    if (fault.slow) {
      // A piece of so many bytes every 20 ms.
      const bytes = readFileSync(file).subarray(start);
      let at = 0;
      const timer = setInterval(() => {
        response.write(bytes.subarray(at, (at += fault.slow)));
        if (at >= bytes.length) response.end(() => clearInterval(timer));
      }, 20);
      response.on('close', () => {
        clearInterval(timer);
        fault.closedAt ??= at;
      });
      return;
    }
    createReadStream(file, { start }).pipe(response);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    log,
    faults,
    close: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

/** The path of Chromium, or null. */
export function chromiumPath() {
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    const found = spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' });
    if (found.status === 0) return found.stdout.trim();
  }
  return null;
}

export function launch() {
  return chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox'] });
}

/** A page whose uncaught errors fail the test that closes it. */
export async function openPage(browser, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error));
  await page.goto(url);
  return {
    page,
    context,
    close: async () => {
      await context.close();
      if (errors.length > 0) throw errors[0];
    },
  };
}

/** Where the parts of a GGUF file lie: the end of its metadata, its tensors, and where their data begins. */
function layout(gguf) {
  const view = new DataView(gguf.buffer, gguf.byteOffset, gguf.byteLength);
  const u64 = (at) => Number(view.getBigUint64(at, true));
  let at = 24;
  const string = () => {
    const length = u64(at);
    const value = gguf.subarray(at + 8, at + 8 + length).toString();
    at += 8 + length;
    return value;
  };
  const SIZES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
  const value = (type) => {
    if (type === 8) string();
    else if (type === 9) {
      const of = view.getUint32(at, true);
      const count = u64(at + 4);
      at += 12;
      for (let i = 0; i < count; i++) value(of);
    } else at += SIZES[type];
  };
  for (let i = u64(16); i > 0; i--) {
    if (string() === 'general.alignment') throw new Error('the file has an alignment of its own');
    at += 4;
    value(view.getUint32(at - 4, true));
  }
  const metadata = at;
  const tensors = [];
  for (let i = u64(8); i > 0; i--) {
    const from = at;
    string();
    at += 4 + 8 * view.getUint32(at, true) + 12;
    tensors.push({ entry: gguf.subarray(from, at - 8), offset: u64(at - 8) });
  }
  const data = aligned(at);
  const ends = [...tensors.slice(1).map(({ offset }) => offset), gguf.length - data];
  for (const [i, tensor] of tensors.entries()) tensor.bytes = gguf.subarray(data + tensor.offset, data + ends[i]);
  return { keys: u64(16), metadata, header: at, tensors };
}

const aligned = (size) => Math.ceil(size / 32) * 32;

function word(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

const text8 = (value) => [word(Buffer.byteLength(value)), Buffer.from(value)];

function padded(bytes) {
  return Buffer.concat([bytes, Buffer.alloc(aligned(bytes.length) - bytes.length)]);
}

/** A GGUF file with one more text in its metadata. */
export function withText(gguf, key, text) {
  const { keys, header } = layout(gguf);
  const entry = Buffer.concat([...text8(key), Buffer.from([8, 0, 0, 0]), ...text8(text)]);
  const start = Buffer.concat([gguf.subarray(0, 16), word(keys + 1), entry, gguf.subarray(24, header)]);
  return Buffer.concat([padded(start), gguf.subarray(aligned(header))]);
}

/** A GGUF file as so many parts, the first with all of the metadata, as `llama-gguf-split` writes them. */
export function splitGguf(gguf, count) {
  const { keys, metadata, tensors } = layout(gguf);
  const each = Math.ceil(tensors.length / count);
  const number = (key, type, bytes, value) => {
    const tail = Buffer.alloc(4 + bytes);
    tail.writeUInt32LE(type);
    tail.writeUIntLE(value, 4, bytes);
    return Buffer.concat([...text8(key), tail]);
  };
  return Array.from({ length: count }, (_, i) => {
    const mine = tensors.slice(i * each, (i + 1) * each);
    const split = [
      number('split.no', 2, 2, i),
      number('split.count', 2, 2, count),
      number('split.tensors.count', 5, 4, tensors.length),
    ];
    const own = i === 0 ? [word(keys + 3), ...split, gguf.subarray(24, metadata)] : [word(3), ...split];
    let offset = 0;
    const entries = [];
    for (const { entry, bytes } of mine) {
      entries.push(entry, word(offset));
      offset += aligned(bytes.length);
    }
    const start = Buffer.concat([gguf.subarray(0, 8), word(mine.length), ...own, ...entries]);
    return Buffer.concat([padded(start), ...mine.map(({ bytes }) => padded(bytes))]);
  });
}

/** A drawing of lines through points in [0, 1], `side` pixels wide and high, with 255 for full ink. */
export function draw(lines, side = 200, width = 0.05) {
  const data = new Uint8Array(side * side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const distance = Math.min(
        ...lines.flatMap((points) => points.slice(1).map((to, i) => away([x / side, y / side], points[i], to))),
      );
      if (distance < width) data[y * side + x] = 255;
    }
  }
  return data;
}

function away([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

const oval = (x, y, rx, ry) =>
  Array.from({ length: 33 }, (_, i) => [x + rx * Math.sin((i * Math.PI) / 16), y - ry * Math.cos((i * Math.PI) / 16)]);

/** Digits as a ruler and a compass would draw them. */
export const DIGITS = {
  0: [oval(0.5, 0.5, 0.2, 0.32)],
  1: [
    [
      [0.5, 0.15],
      [0.5, 0.85],
    ],
  ],
  3: [
    [
      [0.32, 0.2],
      [0.5, 0.15],
      [0.66, 0.25],
      [0.62, 0.42],
      [0.45, 0.5],
      [0.65, 0.58],
      [0.68, 0.75],
      [0.5, 0.86],
      [0.3, 0.8],
    ],
  ],
  4: [
    [
      [0.35, 0.15],
      [0.3, 0.5],
      [0.7, 0.5],
    ],
    [
      [0.66, 0.2],
      [0.62, 0.85],
    ],
  ],
  7: [
    [
      [0.3, 0.2],
      [0.7, 0.2],
      [0.45, 0.85],
    ],
  ],
};
