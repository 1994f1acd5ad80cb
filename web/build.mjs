// npm run build: the package's built files, in dist/. WebAssembly through wasm-pack and wasm-opt, JavaScript through tsc.
//
//   node web/build.mjs [--dev] [--check] [--no-ts] [VARIANT]...
//
// Builds the variants that are named, or all, and the TypeScript. --dev: in a fraction of the time, larger and slower.
// --check: builds nothing, and fails where a file is missing or exceeds its budget. Installs what it needs by package name
// (rustup's target and rust-src, wasm-pack, wasm-bindgen-cli); npm's packages (`npm ci`) must be there.

import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { WASM, WASM_PACK, component, relaxedNode, root, run, rustTarget, say, tool, wasmBindgen } from '../tests/tools.mjs';

/** Bytes, gzipped, of the wasm and its glue. */
const FULL = 1_000_000;
const SMALL = 350_000;

const SIMD = '+simd128';
const RELAXED = '+simd128,+relaxed-simd';
const variants = {
  'relaxed': { instructions: RELAXED, features: ['text'], budget: FULL },
  'simd128': { instructions: SIMD, features: ['text'], budget: FULL },
  'small-relaxed': { instructions: RELAXED, features: [], budget: SMALL },
  'small-simd128': { instructions: SIMD, features: [], budget: SMALL },
  'relaxed-threads': { instructions: RELAXED, features: ['text', 'threads'], budget: FULL },
  'simd128-threads': { instructions: SIMD, features: ['text', 'threads'], budget: FULL },
};

const folder = (name) => join(root, 'dist', 'wasm', name);
const wasm = (name) => join(folder(name), 'sterna_bg.wasm');

function build(name, dev) {
  const { instructions, features } = variants[name];
  const threads = features.includes('threads');
  // rustflags of several sources are joined only where all come as configuration.
  const flags = `-Ctarget-feature=${threads ? '+atomics,+bulk-memory,+mutable-globals,' : ''}${instructions}`;
  const config = ['--config', `target.${WASM}.rustflags=["${flags}"]`, ...(threads ? ['--config', join(root, 'web', 'threads.toml')] : [])];
  const out = join(root, 'target', 'wasm-pack', name);
  const args = [
    ...['build', 'web', '--target', 'web', '--mode', 'no-install', '--no-pack', '--no-opt', '--out-dir', out, '--out-name', 'sterna'],
    ...['--profile', dev ? 'web-dev' : 'web', '--', '--locked', '--no-default-features', '--features', features.join(','), ...config],
  ];
  const bindgen = dirname(wasmBindgen());
  const env = {
    // One for each set of flags: changing them builds everything anew.
    CARGO_TARGET_DIR: join(root, 'target', `wasm-${name.replace('small-', '')}`),
    PATH: bindgen === '.' ? process.env.PATH : `${bindgen}${delimiter}${process.env.PATH}`,
    ...(threads ? { RUSTC_BOOTSTRAP: '1' } : {}),
  };
  // Even an empty one would take the configuration's place.
  delete process.env.RUSTFLAGS;
  rmSync(out, { recursive: true, force: true });
  if (!run(tool('wasm-pack', WASM_PACK), args, env)) throw new Error(`${name}: wasm-pack failed`);
  rmSync(folder(name), { recursive: true, force: true });
  mkdirSync(folder(name), { recursive: true });
  for (const file of readdirSync(out)) {
    if (/^sterna.*\.(js|wasm|d\.ts)$/.test(file)) copyFileSync(join(out, file), join(folder(name), file));
  }
  if (threads) replacePool(name);
  if (!dev) optimize(name);
  inspect(name, threads);
}

/** The helper of wasm-bindgen-rayon gives way to ours; see pool.js. */
function replacePool(name) {
  const glue = join(folder(name), 'sterna.js');
  const before = readFileSync(glue, 'utf8');
  const after = before.replace(/(['"])\.\/snippets\/wasm-bindgen-rayon-[^'"]*\/workerHelpers\.js\1/g, "'./pool.js'");
  if (after === before || after.includes('./snippets/')) throw new Error(`${name}: the glue imports other snippets than expected`);
  writeFileSync(glue, after);
  copyFileSync(join(root, 'web', 'pool.js'), join(folder(name), 'pool.js'));
}

/** npm's wasm-opt: Debian's, of years ago, breaks such files without a word. */
function optimize(name) {
  const program = join(root, 'node_modules', 'binaryen', 'bin', 'wasm-opt');
  if (!existsSync(program)) throw new Error('npm\'s binaryen is not there: run npm ci first');
  const args = [program, wasm(name), '-O2', '--strip-debug', '--strip-producers', '-o', wasm(name)];
  if (!run(process.execPath, args)) throw new Error(`${name}: wasm-opt failed`);
}

/** What must hold of a file before it is run. */
function inspect(name, threads) {
  const glue = readFileSync(join(folder(name), 'sterna.js'), 'utf8');
  const imports = glue.includes('shared:true');
  if (imports !== threads) throw new Error(`${name}: its memory is ${imports ? '' : 'not '}shared`);
}

/** Runs a built file: models load, and say what they say everywhere. */
function smoke(name) {
  // Node 20 takes no relaxed SIMD, and computes wrong sums on several threads.
  const node = /relaxed|threads/.test(name) ? relaxedNode() : process.execPath;
  if (!run(node, [join('web', 'smoke.mjs'), folder(name)])) throw new Error(`${name}: the built file does not work`);
}

/** A table of what is there; gives the names of those that exceed their budget. */
function sizes() {
  const exceeded = [];
  say(`\n${'variant'.padEnd(18)}${'wasm'.padStart(12)}${'gzip'.padStart(12)}${'+ glue'.padStart(12)}${'budget'.padStart(12)}`);
  for (const [name, { budget }] of Object.entries(variants)) {
    if (!existsSync(wasm(name))) continue;
    const bytes = readFileSync(wasm(name));
    const packed = gzipSync(bytes, { level: 9 }).length;
    const all = packed + gzipSync(readFileSync(join(folder(name), 'sterna.js')), { level: 9 }).length;
    const cells = [bytes.length, packed, all, budget].map((number) => number.toLocaleString('en').padStart(12));
    say(`${name.padEnd(18)}${cells.join('')}${all > budget ? '  exceeded' : ''}`);
    if (all > budget) exceeded.push(name);
  }
  return exceeded;
}

function typescript() {
  if (!existsSync(join(root, 'web', 'ts', 'tsconfig.json'))) return;
  const program = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  if (!existsSync(program)) throw new Error('npm\'s typescript is not there: run npm ci first');
  if (!run(process.execPath, [program, '-p', join('web', 'ts')])) throw new Error('tsc found errors');
}

function main(words) {
  const flags = words.filter((word) => word.startsWith('--'));
  const named = words.filter((word) => !word.startsWith('--'));
  const unknown = [...flags.filter((flag) => !['--dev', '--check', '--no-ts'].includes(flag)), ...named.filter((name) => !variants[name])];
  if (unknown.length > 0) throw new Error(`unknown: ${unknown.join(' ')}; variants are ${Object.keys(variants).join(', ')}`);
  const dev = flags.includes('--dev');
  if (!flags.includes('--check')) {
    const chosen = named.length > 0 ? named : Object.keys(variants);
    if (rustTarget(WASM) === false) throw new Error(`rustup could not add ${WASM}`);
    if (chosen.some((name) => name.endsWith('threads')) && component('rust-src') === false) throw new Error('rustup could not add rust-src');
    for (const name of chosen) {
      build(name, dev);
      smoke(name);
    }
    if (!flags.includes('--no-ts')) typescript();
  }
  const missing = Object.keys(variants).filter((name) => !existsSync(wasm(name)));
  if (flags.includes('--check') && missing.length > 0) throw new Error(`not built: ${missing.join(', ')}`);
  const exceeded = sizes();
  if (!dev && exceeded.length > 0) throw new Error(`over budget: ${exceeded.join(', ')}`);
}

try {
  main(process.argv.slice(2));
} catch (error) {
  say(`web/build.mjs: ${error.message}`);
  process.exitCode = 1;
}
