// npm test: every test of every part, on a machine that has Rust and Node. Installs what it needs by package name.
//
//   node tests/run.mjs [--list] [--only NAME]... [--quick]
//
// A step fails, or skips parts with a reason; all steps run, and the closing summary names every failure and every
// skipped part. With CI=true a skipped part is a failure. Needs no npm package.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { arch, homedir, platform } from 'node:os';
import { dirname, join } from 'node:path';
import { WASM, capture, component, relaxedNode, root, run, rustTarget, say, tool, wasmBindgen } from './tools.mjs';

const ci = process.env.CI === 'true';
const AARCH64 = 'aarch64-unknown-linux-gnu';
const WASI = 'wasm32-wasip1';

const relaxed = { RUSTFLAGS: '-Ctarget-feature=+simd128,+relaxed-simd' };

/** All steps, in order. `slow` ones are left out by --quick. */
const steps = [
  {
    name: 'format',
    about: 'rustfmt finds nothing to change',
    async run() {
      component('rustfmt');
      await cargo(['fmt', '--all', '--check']);
    },
  },
  {
    name: 'lint',
    about: 'clippy finds nothing, on every target and with core\'s features off',
    async run() {
      component('clippy');
      await cargo(['clippy', '--workspace', '--all-targets', '--', '-D', 'warnings']);
      await cargo(['clippy', '-p', 'sterna-core', '--no-default-features', '--', '-D', 'warnings']);
    },
  },
  {
    name: 'dependencies',
    about: 'licences, sources and bans of deny.toml hold for all that Cargo.lock brings',
    async run() {
      await command(tool('cargo-deny', '0.20.2'), ['--all-features', '--locked', 'check', 'licenses', 'bans', 'sources']);
    },
  },
  {
    name: 'doc',
    about: 'the documentation builds without warnings',
    async run() {
      await cargo(['doc', '--workspace', '--no-deps'], { RUSTDOCFLAGS: '-D warnings' });
    },
  },
  {
    name: 'test',
    about: 'unit, integration and documentation tests of all crates',
    async run(step) {
      const env = { STERNA_REQUIRE_KERNELS: expectedKernels().join(',') };
      const python = pythonWith(step, 'gguf');
      if (python) env.STERNA_PYTHON = python;
      // Shown output carries the lines "skipped: ..." and "kernels exercised: ...".
      await cargo(['test', '--workspace', '--', '--show-output'], env);
    },
  },
  {
    name: 'aarch64',
    about: 'tests of sterna-core for 64-bit Arm under qemu, with and without the dot product extension',
    slow: true,
    async run(step) {
      if (platform() !== 'linux') return step.skip('aarch64 tests', 'qemu-user runs on Linux only');
      if (arch() === 'arm64') return step.skip('aarch64 under qemu', 'this machine is aarch64; step test has run it natively');
      if (!target(step, AARCH64)) return;
      const programs = { 'qemu-aarch64': 'qemu-user', 'aarch64-linux-gnu-gcc': 'gcc-aarch64-linux-gnu' };
      if (!debian(step, programs, ['libc6-dev-arm64-cross'])) return;
      const on = (cpu, kernels) => ({
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER: 'aarch64-linux-gnu-gcc',
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER: `qemu-aarch64 -cpu ${cpu} -L /usr/aarch64-linux-gnu`,
        STERNA_REQUIRE_KERNELS: kernels,
      });
      const test = ['test', '-p', 'sterna-core', '--target', AARCH64];
      // Whole texts take minutes under emulation; the step test compares them with llama.cpp, and the bits are the same here.
      const whole = ['--skip', 'perplexities_are_llama_cpps'];
      await cargo([...test, '--lib', '--tests', '--', '--show-output', ...whole], on('max', 'neon-dotprod,neon'));
      // A Cortex-A72 has no dot product: the other kernel must be chosen, and be right.
      await cargo([...test, '--lib', 'kernels::', '--', '--show-output'], on('cortex-a72', 'neon'));
    },
  },
  {
    name: 'wasm',
    about: 'sterna-core builds for WebAssembly: plain, SIMD128 and relaxed SIMD, with and without features',
    async run(step) {
      if (!target(step, WASM)) return;
      const flags = ['', '-Ctarget-feature=+simd128', '-Ctarget-feature=+simd128,+relaxed-simd'];
      for (const flag of flags) {
        const env = flag ? { RUSTFLAGS: flag } : {};
        for (const features of [['--no-default-features'], ['--no-default-features', '--features', 'tokenizer,chat']]) {
          await cargo(['check', '-p', 'sterna-core', '--target', WASM, '--target-dir', 'target/wasm', ...features], env);
        }
      }
    },
  },
  {
    name: 'wasm-kernels',
    about: 'WebAssembly kernels equal scalar, and whole models give the recorded bits, under Node',
    slow: true,
    async run(step) {
      if (!target(step, WASI)) return;
      // The relaxed build has the plain SIMD128 kernels too.
      const env = {
        RUSTFLAGS: '-Ctarget-feature=+simd128,+relaxed-simd',
        CARGO_TARGET_WASM32_WASIP1_RUNNER: `${relaxedNode()} --no-warnings ${join(root, 'tests', 'wasi.mjs')}`,
        STERNA_REQUIRE_KERNELS: 'relaxed-simd,simd128',
      };
      const test = ['test', '-p', 'sterna-core', '--target', WASI, '--target-dir', 'target/wasi'];
      const what = ['--no-default-features', '--features', 'rayon', '--lib', '--test', 'models'];
      await cargo([...test, ...what, '--', '--nocapture', 'kernels::', 'logits'], env);
    },
  },
  {
    name: 'web-lint',
    about: 'clippy finds nothing in the bindings and their tests, with text and without',
    async run(step) {
      component('clippy');
      if (!target(step, WASM)) return;
      const clippy = ['clippy', '-p', 'sterna-web', '--all-targets', '--target', WASM, '--target-dir', 'target/wasm'];
      for (const features of [[], ['--no-default-features']]) await cargo([...clippy, ...features, '--', '-D', 'warnings'], relaxed);
    },
  },
  {
    name: 'web-kernels',
    about: 'the bindings under Node and in Chromium: kernels equal scalar, models say what was recorded',
    slow: true,
    async run(step) {
      if (!target(step, WASM)) return;
      const runner = wasmBindgen('wasm-bindgen-test-runner');
      const test = ['test', '-p', 'sterna-web', '--lib', '--target', WASM, '--target-dir', 'target/wasm-test'];
      const simd = { RUSTFLAGS: '-Ctarget-feature=+simd128' };
      const under = { CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER: runner };
      const path = (node) => ({ PATH: `${dirname(node)}:${process.env.PATH}` });
      // A runner that finds nothing to run ends well: what ran is counted.
      const counted = async (args, env) => {
        const before = step.tests;
        await cargo([...args, '--', '--nocapture'], env);
        if (step.tests - before < 10) throw new Error(`only ${step.tests - before} tests ran`);
      };
      await counted(test, { ...simd, ...under });
      await counted([...test, '--no-default-features'], { ...simd, ...under });
      await counted(test, { ...relaxed, ...under, ...path(relaxedNode()) });
      if (!debian(step, { chromium: 'chromium', chromedriver: 'chromium-driver' }, [])) return;
      const driver = capture('sh', ['-c', 'command -v chromedriver']).trim();
      const chromium = { WASM_BINDGEN_USE_BROWSER: '1', CHROMEDRIVER: driver, WASM_BINDGEN_TEST_TIMEOUT: '300' };
      await counted(test, { ...simd, ...under, ...chromium });
      await counted(test, { ...relaxed, ...under, ...chromium });
    },
  },
  {
    name: 'web',
    about: 'the npm package builds, every variant of its WebAssembly runs, and all keep to their budget',
    slow: true,
    async run(step) {
      if (!target(step, WASM)) return;
      await command('npm', ['ci', '--no-audit', '--no-fund']);
      await command(process.execPath, [join('web', 'build.mjs')]);
    },
  },
  {
    name: 'pages',
    about: 'the npm package in Node, in Chromium and in an app that installs it; the demo site as people use it',
    slow: true,
    async run(step) {
      if (!existsSync(join(root, 'dist', 'index.js'))) throw new Error('the package is not built; run the step web first');
      if (!debian(step, { chromium: 'chromium' }, [])) return;
      const files = readdirSync(join(root, 'tests', 'web')).filter((file) => file.endsWith('.test.mjs'));
      // One after the other: their pages measure time.
      const test = ['--test', '--test-concurrency=1', '--test-reporter=spec', ...files.map((file) => join('tests', 'web', file))];
      await command(process.execPath, test);
    },
  },
  {
    name: 'fuzz',
    about: 'fuzz targets build and survive a few seconds each',
    slow: true,
    async run(step) {
      const manifest = join('fuzz', 'Cargo.toml');
      if (!existsSync(join(root, manifest))) throw new Error('the fuzz targets (fuzz/) are not there');
      if (platform() !== 'linux') return step.skip('fuzz targets', 'set up for Linux only');
      if (!debian(step, { 'g++': 'g++' }, [])) return;
      const host = capture('rustc', ['-vV']).match(/^host: (.*)$/m)[1];
      const env = {
        // What cargo-fuzz sets, without the address sanitizer, which a stable toolchain does not have.
        RUSTFLAGS: [
          '--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions -Ccodegen-units=1',
          '-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters',
          '-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares',
        ].join(' '),
      };
      const targets = readdirSync(join(root, 'fuzz', 'fuzz_targets')).map((file) => file.replace(/\.rs$/, ''));
      for (const name of targets) {
        const build = ['--manifest-path', manifest, '--release', '--target', host, '--target-dir', 'target/fuzz', '--bin', name];
        await cargo(['run', ...build, '--', '-max_total_time=8', '-rss_limit_mb=2048', '-timeout=30'], env);
      }
    },
  },
  {
    name: 'package',
    about: 'every published crate packs, and builds from what was packed',
    slow: true,
    async run() {
      const metadata = JSON.parse(capture('cargo', ['metadata', '--format-version', '1', '--no-deps', '--locked']));
      const published = metadata.packages.filter((p) => p.publish === null);
      // Cargo takes a version for unchanged: what an earlier check unpacked and built of ours must go.
      const forget = (folder, of) => {
        for (const entry of existsSync(folder) ? readdirSync(folder) : []) {
          if (of.some((start) => entry.startsWith(start))) rmSync(join(folder, entry), { recursive: true, force: true });
        }
      };
      const unpacked = join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'registry', 'src');
      for (const registry of existsSync(unpacked) ? readdirSync(unpacked) : []) {
        // Those with names are registries on the network.
        if (registry.startsWith('-')) forget(join(unpacked, registry), published.map((p) => `${p.name}-${p.version}`));
      }
      forget(join(root, 'target', 'debug', '.fingerprint'), published.map((p) => `${p.name}-`));
      await cargo(['package', '--allow-dirty', ...published.flatMap((p) => ['-p', p.name])]);
    },
  },
];

/** Kernels that this CPU must show; if one of them does not run, detection is broken. */
function expectedKernels() {
  if (platform() !== 'linux' || arch() !== 'x64') return [];
  const flags = new Set((readFileSync('/proc/cpuinfo', 'utf8').match(/^flags\s*:(.*)$/m)?.[1] ?? '').trim().split(' '));
  const kernels = { avx2: ['avx2', 'f16c'], 'avx512-vnni': ['avx512f', 'avx512bw', 'avx512_vnni'] };
  return Object.entries(kernels).flatMap(([name, needs]) => {
    const missing = needs.filter((flag) => !flags.has(flag));
    if (missing.length === 0) return [name];
    current.skip(`kernel ${name}`, `this CPU has no ${missing.join(', ')}`);
    return [];
  });
}

// ---- Set-up: each gives true when the thing is there now, and names the skipped part when it cannot be.

function target(step, triple) {
  const there = rustTarget(triple);
  if (there === null) return step.skip(triple, 'Rust was not installed by rustup, so the target cannot be added');
  return there || step.skip(triple, 'rustup could not add the target');
}

/** A Python in target/tools that has a package, in the version that tests/fixtures/requirements.txt names. */
function pythonWith(step, name) {
  const requirements = readFileSync(join(root, 'tests', 'fixtures', 'requirements.txt'), 'utf8');
  const pinned = requirements.split('\n').find((line) => line.startsWith(`${name}==`));
  const where = join(root, 'target', 'tools', 'python');
  const own = join(where, 'bin', 'python');
  const has = () => spawnSync(own, ['-c', `import ${name}`]).status === 0;
  if (existsSync(own) && has()) return own;
  if (!debian(step, { python3: 'python3' }, ['python3-venv'])) return null;
  if (run('python3', ['-m', 'venv', where]) && run(own, ['-m', 'pip', 'install', '--quiet', pinned]) && has()) return own;
  step.skip(`Python's ${name}`, 'it could not be installed with pip');
  return null;
}

/** Debian packages by the programs they bring, and those that bring none. */
function debian(step, programs, libraries) {
  const found = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
  const installed = (name) => spawnSync('dpkg', ['-s', name]).status === 0;
  const missing = Object.entries(programs).filter(([program]) => !found(program)).map(([, name]) => name);
  if (found('dpkg')) missing.push(...libraries.filter((name) => !installed(name)));
  if (missing.length === 0) return true;
  const list = missing.join(' ');
  if (!found('apt-get')) return step.skip(step.name, `needs ${list}, and there is no apt-get to install it`);
  const prefix = process.getuid?.() === 0 ? [] : ['sudo', '-n'];
  const apt = (...words) => run(...((all) => [all[0], all.slice(1)])([...prefix, 'apt-get', ...words]));
  if (!apt('update', '-q') || !apt('install', '-qy', '--no-install-recommends', ...missing)) {
    return step.skip(step.name, `needs ${list}; installing them takes root (apt-get install ${list})`);
  }
  return true;
}

// ---- Running things

let current;

/** As `command`, with cargo. */
function cargo(args, env = {}) {
  return command('cargo', args, env);
}

/** Runs a program with live output; reads the lines that tests print for us. Throws when it fails. */
async function command(program, args, env = {}) {
  const shown = Object.entries(env).map(([key, value]) => `${key}='${value}' `).join('');
  say(`$ ${shown}${program} ${args.join(' ')}`);
  const color = process.stdout.isTTY ? 'always' : 'auto';
  const child = spawn(program, args, {
    cwd: root,
    env: { CARGO_TERM_COLOR: color, ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    process.stdout.write(text);
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    lines.forEach((line) => current.read(line));
  });
  const status = await new Promise((done, fail) => {
    child.on('error', fail);
    child.on('close', (code, signal) => done(code ?? signal));
  });
  if (status !== 0) throw new Error(`${program} ${args.slice(0, 2).join(' ')} ended with ${status}`);
}

/** What became of a step. */
class Result {
  constructor(step) {
    Object.assign(this, { name: step.name, skipped: [], ignored: [], kernels: new Set(), tests: 0, error: null, seconds: 0 });
  }

  /** Names a part that could not run. Gives false, so that set-up can return it. */
  skip(part, reason) {
    this.skipped.push({ part, reason });
    return false;
  }

  read(line) {
    const tests = line.match(/^test result: .*? (\d+) passed/) ?? line.match(/^\S* ?pass (\d+)$/);
    if (tests) this.tests += Number(tests[1]);
    // What a test needs that this script does not install; such tests are run by hand (cargo test -- --ignored).
    const ignored = line.match(/^test (\S+) \.\.\. ignored(?:, (.*))?$/);
    if (ignored) this.ignored.push({ test: ignored[1], reason: ignored[2] ?? 'no reason given' });
    const kernels = line.match(/kernels exercised: (.*)$/);
    if (kernels) this.kernels.add(kernels[1]);
    const skipped = line.match(/^skipped: (.*)$/);
    if (skipped && !this.skipped.some((other) => other.reason === skipped[1])) this.skip('tests', skipped[1]);
  }
}

function summary(results) {
  const rows = results.map((result) => {
    const state = result.error ? 'FAILED' : result.skipped.length > 0 ? 'SKIPPED in part' : 'ok';
    const kernels = result.kernels.size > 0 ? `kernels: ${[...result.kernels].join('; ')}` : '';
    const tests = result.tests > 0 ? `${result.tests} tests` : '';
    const ignored = result.ignored.length > 0 ? `${result.ignored.length} not run by default` : '';
    return [result.name, state, `${result.seconds.toFixed(0)} s`, [tests, ignored, kernels].filter(Boolean).join(', ')];
  });
  const widths = [0, 1, 2].map((i) => Math.max(...rows.map((row) => row[i].length)));
  say('\n---- summary');
  for (const row of rows) say(row.map((cell, i) => (i < 3 ? cell.padEnd(widths[i]) : cell)).join('  ').trimEnd());
  for (const { name, skipped } of results) for (const { part, reason } of skipped) say(`SKIPPED ${name}: ${part}: ${reason}`);
  for (const { name, ignored } of results) for (const { test, reason } of ignored) say(`NOT RUN ${name}: ${test}: ${reason}`);
  for (const { name, error } of results) if (error) say(`FAILED ${name}: ${error.message}`);
}

async function main(words) {
  if (words.includes('--list')) {
    for (const step of steps) say(`${step.name.padEnd(14)}${step.about}${step.slow ? ' (not with --quick)' : ''}`);
    return 0;
  }
  const only = words.flatMap((word, i) => (words[i - 1] === '--only' ? [word] : []));
  const unknown = only.filter((name) => !steps.some((step) => step.name === name));
  const stray = words.filter((word, i) => !['--only', '--quick'].includes(word) && words[i - 1] !== '--only');
  if (unknown.length + stray.length > 0 || words.at(-1) === '--only') {
    say(`unknown: ${[...unknown, ...stray].join(' ')}; --list shows the steps, --only NAME runs one, --quick leaves slow ones out`);
    return 2;
  }
  const results = [];
  for (const step of steps) {
    if (only.length > 0 && !only.includes(step.name)) continue;
    current = new Result(step);
    results.push(current);
    if (only.length === 0 && step.slow && words.includes('--quick')) {
      current.skip(step.name, 'left out by --quick');
      continue;
    }
    say(`\n---- ${step.name}: ${step.about}`);
    const started = performance.now();
    try {
      await step.run(current);
    } catch (error) {
      current.error = error;
      say(`FAILED: ${error.message}`);
    }
    current.seconds = (performance.now() - started) / 1000;
    say(`---- ${step.name} took ${current.seconds.toFixed(0)} s`);
  }
  summary(results);
  const failed = results.some((result) => result.error);
  const skipped = results.some((result) => result.skipped.length > 0);
  if (skipped && ci) say('a skipped part is a failure here, as CI=true');
  say(failed || (skipped && ci) ? 'not everything is well' : skipped ? 'what ran is well' : 'all is well');
  return failed || (skipped && ci) ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
