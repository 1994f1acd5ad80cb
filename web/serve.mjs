// npm run demo: builds what is missing or older than its sources, then serves the demo site on this machine.
//
//   node web/serve.mjs [--port 8080] [--host 127.0.0.1] [--root target/site] [--no-isolation] [--no-build]
//
// Sends the headers that threads need (COOP and COEP); with --no-isolation it does not, as many static hosts.
// Text and WebAssembly go gzipped to those who take it. No listings of folders.

import { spawnSync } from 'node:child_process';
import { createReadStream, existsSync, readFileSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { gzip } from 'node:zlib';

const here = dirname(fileURLToPath(import.meta.url));
const project = dirname(here);

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.gguf': 'application/octet-stream',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.mjs': 'text/javascript; charset=utf-8',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json',
};

/** Types that gzip makes smaller. Models are not among them: they are dense, and their length must be known. */
const COMPRESSED = new Set(['.css', '.html', '.js', '.json', '.mjs', '.svg', '.txt', '.wasm', '.webmanifest']);

/**
 * A server of the files under `root`, not yet listening. `prefix` is the path it answers under (`/some/folder/`);
 * `isolation` sends COOP and COEP; `served` is told each path that was answered with a file, and the bytes sent.
 */
export function createSiteServer({ root, isolation = true, prefix = '/', served = () => {} }) {
  const base = realpathSync(root);
  /** Gzipped files by path, with the tag of the file that they were made from. */
  const packed = new Map();
  const pack = (path, etag) => {
    if (packed.get(path)?.etag !== etag) packed.set(path, { etag, bytes: promisify(gzip)(readFileSync(path)) });
    return packed.get(path).bytes;
  };
  const answer = async (request, response) => {
    const fail = (status, words, headers = {}) => {
      response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', ...headers });
      response.end(`${words}\n`);
    };
    if (request.method !== 'GET' && request.method !== 'HEAD') return fail(405, 'only GET and HEAD', { Allow: 'GET, HEAD' });
    const path = pathOf(request.url, prefix);
    const file = path === undefined ? undefined : fileOf(base, path);
    if (!file) return fail(404, 'not found');
    const { size, mtimeMs, folder } = file;
    if (folder) return fail(308, 'see there', { Location: `${request.url.replace(/[?#].*/s, '')}/` });

    const extension = extname(file.path).toLowerCase();
    const zipped = COMPRESSED.has(extension) && /\bgzip\b/.test(request.headers['accept-encoding'] ?? '') && !request.headers.range;
    const plainTag = `"${size.toString(16)}-${Math.floor(mtimeMs).toString(16)}"`;
    const etag = zipped ? plainTag.replace(/"$/, '-gzip"') : plainTag;
    const headers = {
      'Content-Type': TYPES[extension] ?? 'application/octet-stream',
      'Accept-Ranges': 'bytes',
      Vary: 'Accept-Encoding',
      // Stored, but asked for again: a rebuilt site is seen at once.
      'Cache-Control': 'no-cache',
      ETag: etag,
      'X-Content-Type-Options': 'nosniff',
    };
    if (isolation) {
      headers['Cross-Origin-Opener-Policy'] = 'same-origin';
      headers['Cross-Origin-Embedder-Policy'] = 'require-corp';
      headers['Cross-Origin-Resource-Policy'] = 'same-origin';
    }
    const known = request.headers['if-none-match']?.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
    if (known?.includes(etag) || known?.includes('*')) {
      response.writeHead(304, headers);
      return response.end();
    }
    const range = rangeOf(request.headers, size, etag);
    if (range === null) return fail(416, 'no such range', { 'Content-Range': `bytes */${size}` });
    const { start, end } = range ?? { start: 0, end: size - 1 };
    if (zipped) {
      const bytes = await pack(file.path, etag);
      response.writeHead(200, { ...headers, 'Content-Encoding': 'gzip', 'Content-Length': bytes.length });
      if (request.method === 'HEAD') return response.end();
      served(path, bytes.length);
      return response.end(bytes);
    }
    headers['Content-Length'] = end - start + 1;
    if (range) headers['Content-Range'] = `bytes ${start}-${end}/${size}`;
    response.writeHead(range ? 206 : 200, headers);
    if (request.method === 'HEAD' || size === 0) return response.end();
    served(path, end - start + 1);
    const stream = createReadStream(file.path, { start, end });
    stream.on('error', () => response.destroy());
    response.on('close', () => stream.destroy());
    stream.pipe(response);
  };
  // A file may vanish between two looks at it.
  return createServer((request, response) => answer(request, response).catch(() => response.destroy()));
}

/** Listens; gives the address of the first page. */
export function listen(server, { port = 0, host = '127.0.0.1', prefix = '/' } = {}) {
  return new Promise((done, failed) => {
    server.once('error', failed);
    server.listen(port, host, () => {
      const name = host === '127.0.0.1' || host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host;
      done(`http://${name}:${server.address().port}${prefix}`);
    });
  });
}

/** The path of a request below the prefix, decoded; undefined if it is none of ours. */
function pathOf(url, prefix) {
  let path;
  try {
    path = decodeURIComponent(url.replace(/[?#].*/s, ''));
  } catch {
    return undefined;
  }
  return path.startsWith(prefix) ? path.slice(prefix.length) : undefined;
}

/** The file at a path, if it lies below `base` also when all links are followed. */
function fileOf(base, path) {
  if (/[\0\\]/.test(path)) return undefined;
  try {
    const inFolder = path === '' || path.endsWith('/');
    const real = realpathSync(resolve(base, `./${inFolder ? `${path}index.html` : path}`));
    if (!real.startsWith(base + sep)) return undefined;
    const found = statSync(real);
    if (found.isFile()) return { path: real, size: found.size, mtimeMs: found.mtimeMs };
    return found.isDirectory() && existsSync(join(real, 'index.html')) ? { path: real, folder: true } : undefined;
  } catch {
    return undefined;
  }
}

/** What part of a file is asked for: undefined for all of it, null for what cannot be. Several ranges get the whole file. */
function rangeOf(headers, size, etag) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(headers.range ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  if (headers['if-range'] !== undefined && headers['if-range'] !== etag) return undefined;
  const [first, last] = match.slice(1);
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  return start < size && start <= end ? { start, end } : null;
}

// Freshness: the newest file of the sources against the one that a build writes last.

function newest(paths) {
  let latest = 0;
  for (const path of paths.map((path) => join(project, path)).filter((path) => existsSync(path))) {
    const stat = statSync(path);
    if (!stat.isDirectory()) latest = Math.max(latest, stat.mtimeMs);
    else for (const entry of readdirSync(path, { recursive: true })) latest = Math.max(latest, statSync(join(path, entry)).mtimeMs);
  }
  return latest;
}

/** Builds the package and the site where they are missing or older than what they are made from. */
function build() {
  const run = (script) => {
    const { status } = spawnSync(process.execPath, [join(here, script)], { cwd: project, stdio: 'inherit' });
    if (status !== 0) process.exit(status ?? 1);
  };
  const engine = ['core/src', 'core/Cargo.toml', 'Cargo.lock', 'web/src', 'web/ts', 'web/Cargo.toml', 'web/threads.toml', 'web/pool.js', 'web/build.mjs'];
  if (newest(['dist']) < newest(engine)) run('build.mjs');
  if (newest(['target/site']) < newest(['dist', 'www', 'models', 'web/site.mjs'])) run('site.mjs');
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: '8080' },
      host: { type: 'string', default: '127.0.0.1' },
      root: { type: 'string' },
      'no-isolation': { type: 'boolean', default: false },
      'no-build': { type: 'boolean', default: false },
    },
  });
  if (!values['no-build'] && !values.root) build();
  const root = values.root ?? join(project, 'target', 'site');
  if (!existsSync(join(root, 'index.html'))) {
    console.error(`${root} has no index.html; npm run build:site makes it`);
    process.exit(1);
  }
  const server = createSiteServer({ root, isolation: !values['no-isolation'] });
  try {
    console.log(`${await listen(server, { port: Number(values.port), host: values.host })}  (stop with Ctrl-C)`);
  } catch (error) {
    const remedy = error.code === 'EADDRINUSE' ? '; --port 0 takes a free one' : '';
    console.error(`cannot listen on ${values.host}:${values.port}: ${error.message}${remedy}`);
    process.exit(1);
  }
}
