// Programs that tests and builds need, found or installed by package name: never to the system, but for rustup's parts.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const WASM = 'wasm32-unknown-unknown';
/** What wasm-bindgen's crates are pinned to (web/Cargo.toml), and wasm-pack. */
export const WASM_BINDGEN = '0.2.130';
export const WASM_PACK = '0.15.1';

export function say(text) {
  process.stdout.write(`${text}\n`);
}

/** Runs set-up; true on success. */
export function run(command, args, env = {}) {
  say(`$ ${command} ${args.join(' ')}`);
  const all = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', ...env };
  return spawnSync(command, args, { cwd: root, stdio: 'inherit', env: all }).status === 0;
}

/** What a command prints; with `optional`, null when it does not exist. */
export function capture(command, args, optional = false) {
  const done = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (done.status === 0) return done.stdout;
  if (optional && done.error) return null;
  throw new Error(`${command} ${args.join(' ')}: ${done.error?.message ?? done.stderr}`);
}

/** Whether a component of the toolchain is there now; null where Rust was not installed by rustup. */
export function component(name) {
  const installed = capture('rustup', ['component', 'list', '--installed'], true);
  return installed === null ? null : installed.includes(name) || run('rustup', ['component', 'add', name]);
}

/** Whether a target's standard library is there now; null where Rust was not installed by rustup. */
export function rustTarget(triple) {
  const installed = capture('rustup', ['target', 'list', '--installed'], true);
  return installed === null ? null : installed.includes(triple) || run('rustup', ['target', 'add', triple]);
}

/**
 * The path of a program that cargo installs: the one at hand, or one built into target/tools, without optimizing. `crate` is
 * the package where that has another name; `locked` is false for those that do not build with their own lock file.
 */
export function tool(name, version, { crate = name, locked = true } = {}) {
  const own = join(root, 'target', 'tools', 'bin', name);
  for (const path of [name, own]) {
    if (capture(path, ['--version'], true)?.includes(version)) return path;
  }
  const env = { CARGO_PROFILE_RELEASE_OPT_LEVEL: '0', CARGO_PROFILE_RELEASE_LTO: 'false', CARGO_PROFILE_RELEASE_CODEGEN_UNITS: '16' };
  const where = ['--root', join(root, 'target', 'tools'), '--target-dir', join(root, 'target', 'tools', 'build')];
  const args = ['install', ...(locked ? ['--locked'] : []), '--force', `${crate}@${version}`, ...where];
  if (!run('cargo', args, env)) throw new Error(`cannot install ${crate}`);
  return own;
}

/** As `tool`: wasm-bindgen's programs, all of one package. */
export const wasmBindgen = (name = 'wasm-bindgen') => tool(name, WASM_BINDGEN, { crate: 'wasm-bindgen-cli', locked: false });

/** A Node that takes relaxed SIMD (24 or later): this one, or npm's package `node`, put under target/tools. */
export function relaxedNode() {
  if (Number(process.versions.node.split('.')[0]) >= 24) return process.execPath;
  const where = join(root, 'target', 'tools', 'node');
  const own = join(where, 'node_modules', 'node', 'bin', 'node');
  if (!existsSync(own) && !run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', where, 'node@24'])) {
    throw new Error('cannot install the npm package node@24');
  }
  return own;
}
