// npm run build:site: puts the demo site together in target/site, for any static host.
//
//   node web/site.mjs [--dist dist] [--out target/site]
//
// www/ as it is, the package's built files as sterna/, the models as models/. The service worker gets a version made from
// all files, and the lists it works with. Prints what a first visit transfers, and fails where that exceeds the budget.

import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, extname, join, posix, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';

const project = dirname(dirname(fileURLToPath(import.meta.url)));

/** Bytes that the first page may transfer, with the digit model and all else that its visit fetches, gzipped. */
const BUDGET = 500_000;
/** What the first page loads beside its own files and their imports: the model, and a worker that fetches its wasm. */
const FIRST_MODEL = 'models/mnist.gguf';
const FIRST_VARIANTS = ['small-relaxed', 'small-simd128'];

const { values } = parseArgs({ options: { dist: { type: 'string', default: join(project, 'dist') }, out: { type: 'string', default: join(project, 'target', 'site') } } });
const dist = resolve(values.dist);
const out = resolve(values.out);
if (!existsSync(join(dist, 'index.js'))) fail(`${dist} has no index.js; npm run build makes it`);

// In a folder beside, which then takes the old one's place: a half-written site is never served.
const work = `${out}.new`;
rmSync(work, { recursive: true, force: true });
mkdirSync(join(work, 'models'), { recursive: true });
cpSync(join(project, 'www'), work, { recursive: true });
cpSync(dist, join(work, 'sterna'), { recursive: true, filter: (path) => statSync(path).isDirectory() || ['.js', '.wasm'].includes(extname(path)) });
for (const name of readdirSync(join(project, 'models')).filter((name) => name.endsWith('.gguf'))) {
  cpSync(join(project, 'models', name), join(work, 'models', name));
}

const files = list(work).filter((path) => path !== 'sw.js');
const content = new Map(files.map((path) => [path, readFileSync(join(work, path))]));
const imports = Object.fromEntries(files.filter((path) => path.endsWith('.js')).map((path) => [path, importsOf(path)]).filter(([, paths]) => paths.length > 0));
const shell = files.filter((path) => !/^(models|sterna)\//.test(path));
for (const path of shell.filter((path) => path.endsWith('.html'))) preload(path);
const version = versionOf();
stamp({ VERSION: version, SHELL: shell, FILES: files, IMPORTS: imports });

rmSync(out, { recursive: true, force: true });
renameSync(work, out);
report();

/** All files below a folder, relative and with slashes, sorted. */
function list(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)).split(sep).join('/'))
    .sort();
}

/** What a script imports, relative to the site; fails if a file is not there. */
function importsOf(path) {
  const text = content.get(path).toString();
  const found = [...text.matchAll(/^\s*(?:import|export)\b[^'"();]*?(?:from\s*)?['"](\.{1,2}\/[^'"]+)['"]/gm)].map(([, name]) => posix.join(posix.dirname(path), name));
  for (const name of found) if (!content.has(name)) fail(`${path} imports ${name}, which is not there`);
  return [...new Set(found)];
}

/** The files and all they import. */
function closure(paths) {
  const all = new Set(paths);
  for (const path of all) for (const name of imports[path] ?? []) all.add(name);
  return [...all];
}

/** Lets a page ask for all that its script imports at once, rather than one level after the other. */
function preload(path) {
  const text = content.get(path).toString();
  const script = /^( *)<script type="module" src="([^"]+)"><\/script>\n/m.exec(text);
  if (!script) return;
  const links = closure([script[2]]).map((name) => `${script[1]}<link rel="modulepreload" href="${name}">\n`).join('');
  content.set(path, Buffer.from(text.replace(script[0], () => links + script[0])));
  writeFileSync(join(work, path), content.get(path));
}

function versionOf() {
  const hash = createHash('sha256').update(readFileSync(join(project, 'www', 'sw.js')));
  for (const [path, bytes] of content) hash.update(`\0${path}\0${bytes.length}\0`).update(bytes);
  return hash.digest('hex').slice(0, 12);
}

/** Writes the constants of the service worker. */
function stamp(constants) {
  let text = readFileSync(join(work, 'sw.js'), 'utf8');
  for (const [name, value] of Object.entries(constants)) {
    const line = new RegExp(`^const ${name} = .*;$`, 'm');
    if (!line.test(text)) fail(`www/sw.js has no line "const ${name} = ...;"`);
    text = text.replace(line, () => `const ${name} = ${JSON.stringify(value)};`);
  }
  writeFileSync(join(work, 'sw.js'), text);
}

/** Sizes: the first visit in groups, as they are and gzipped. */
function report() {
  const bytes = (path) => (path === 'sw.js' ? readFileSync(join(out, path)) : content.get(path));
  const sum = (paths) => paths.reduce(([raw, packed], path) => [raw + bytes(path).length, packed + gzipSync(bytes(path), { level: 9 }).length], [0, 0]);
  const line = (name, [raw, packed]) => console.log(`  ${name.padEnd(52)} ${raw.toLocaleString('en-GB').padStart(11)} ${packed.toLocaleString('en-GB').padStart(11)}`);

  // The service worker also fetches the other pages, so that they open offline: they count.
  const page = closure(shell).filter((path) => !path.startsWith('sterna/'));
  const host = closure(['js/digits.js']).filter((path) => path.startsWith('sterna/'));
  console.log(`site ${version}, ${files.length + 1} files in ${relative(process.cwd(), out) || out}`);
  console.log(`  ${'first visit of the first page, bytes'.padEnd(52)} ${'as it is'.padStart(11)} ${'gzipped'.padStart(11)}`);
  const pages = sum([...page, 'sw.js']);
  line('pages, styles, scripts, icon, service worker', pages);
  const fixed = [sum(host), sum([FIRST_MODEL])];
  line('sterna/, the host', fixed[0]);
  line(FIRST_MODEL, fixed[1]);
  let worst = 0;
  for (const variant of FIRST_VARIANTS) {
    const engine = sum([...closure([`sterna/worker/${variant}.js`]).filter((path) => !host.includes(path)), `sterna/wasm/${variant}/sterna_bg.wasm`]);
    const total = [0, 1].map((i) => pages[i] + fixed[0][i] + fixed[1][i] + engine[i]);
    line(`engine ${variant}`, engine);
    line(`in all, with ${variant}`, total);
    worst = Math.max(worst, total[1]);
  }
  if (worst >= BUDGET) fail(`the first page transfers ${worst.toLocaleString('en-GB')} bytes gzipped, more than its budget of ${BUDGET.toLocaleString('en-GB')}`);
}

function fail(words) {
  console.error(words);
  process.exit(1);
}
