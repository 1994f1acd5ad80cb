// Speed in a browser: the package against @wllama/wllama (llama.cpp in WebAssembly, its WebGPU off), in one Chromium, in turn.
//
//   node benches/web/bench.mjs [--models DIR] [--threads 1,2] [--rounds 3] [--prompt 128] [--tokens 32] [--json FILE]
//
// DIR holds TQ2_0.gguf, TQ1_0.gguf, Q2_0.gguf and Q4_0.gguf of one shape; what is missing is made there by
// benches/make_shape_model.py (0.6b, vocabulary 32,000; needs Python with numpy). Needs `npm run build`, a Chromium on PATH and,
// once, npm's @wllama/wllama, put under target/tools. Prints a table of medians; --json writes all measurements.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { about, launch, root, serve, toPage } from './support.mjs';

const WLLAMA = '3.8.1';

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: join(root, 'target', 'bench-models') },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    prompt: { type: 'string', default: '128' },
    tokens: { type: 'string', default: '32' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
});

/** What is compared; `best` is wllama's best ordinary quantization, which ternary files must beat as well. */
const cases = [
  ...['TQ2_0', 'TQ1_0', 'Q2_0'].flatMap((format) => [
    { what: 'sterna', format, relaxed: true },
    { what: 'sterna', format, relaxed: false },
    { what: 'wllama', format },
  ]),
  { what: 'wllama', format: 'Q4_0' },
  { what: 'sterna', format: 'TQ2_0', relaxed: true, kernel: 'scalar', slow: true },
].filter(({ what }) => !options.only || what === options.only);

const wllama = join(root, 'target', 'tools', 'wllama');
const folders = {
  '/wllama/': join(wllama, 'node_modules', '@wllama', 'wllama', 'esm'),
  '/models/': options.models,
};

function prepare() {
  if (!existsSync(folders['/wllama/'])) {
    execFileSync('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', wllama, `@wllama/wllama@${WLLAMA}`], { stdio: 'inherit' });
  }
  mkdirSync(options.models, { recursive: true });
  for (const format of new Set(cases.map(({ format }) => format))) {
    const path = join(options.models, `${format}.gguf`);
    if (existsSync(path)) continue;
    const make = [join(root, 'benches', 'make_shape_model.py'), path, '--format', format, '--shape', '0.6b', '--vocab', '32000', '--context', '4096'];
    execFileSync('python3', make, { stdio: 'inherit' });
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];

async function main() {
  prepare();
  const server = await serve(folders);
  const browser = await launch();
  // A word a token, more or less: the vocabulary merges letters in pairs and threes. What counts is reported by each side.
  const prompt = Array.from({ length: Math.round(Number(options.prompt) / 2) }, (_, i) => ['the', 'sea', 'and', 'a', 'tern'][i % 5]).join(' ');
  const results = [];
  try {
    for (let round = 1; round <= Number(options.rounds); round += 1) {
      for (const threads of options.threads.split(',').map(Number)) {
        for (const { what, format, slow, ...more } of cases) {
          // A new page each time, so that no side inherits memory or compiled code.
          const page = await toPage(browser, server);
          const wanted = { model: `models/${format}.gguf`, threads, prompt, tokens: slow ? 4 : Number(options.tokens), ...more };
          let result;
          try {
            result = await page.evaluate(([what, wanted]) => window.measure(what, wanted), [what, wanted]);
          } catch (error) {
            result = { error: error.message.split('\n')[0] };
          }
          await page.close();
          const row = { round, what, format, asked: threads, ...more, ...result };
          results.push(row);
          console.error(JSON.stringify(row));
        }
      }
    }
  } finally {
    await browser.close();
    server.close();
  }
  const machine = { ...about(), wllama: WLLAMA };
  if (options.json) writeFileSync(options.json, `${JSON.stringify({ machine, results }, null, 1)}\n`);
  console.log(`${machine.cpu}; ${machine.browser}; @wllama/wllama ${WLLAMA}; commit ${machine.commit}; ${machine.date}\n${machine.command}\n`);
  console.log('| threads | file | engine | kernel | prompt | prefill t/s | decode t/s | load s |\n| ---: | --- | --- | --- | ---: | ---: | ---: | ---: |');
  for (const threads of options.threads.split(',').map(Number)) {
    for (const { what, format, relaxed, kernel } of cases) {
      const rows = results.filter((r) => r.asked === threads && r.what === what && r.format === format && r.relaxed === relaxed && (r.kernel === 'scalar') === (kernel === 'scalar'));
      const good = rows.filter((r) => !r.error);
      if (good.length === 0) {
        console.log(`| ${threads} | ${format} | ${what} | | | ${rows[0]?.error ?? 'none'} | | |`);
        continue;
      }
      const of = (key) => median(good.map((r) => r[key])).toPrecision(3);
      console.log(`| ${threads} | ${format} | ${what} | ${good[0].kernel} ${good[0].variant} | ${good[0].prompt} | ${of('prefill')} | ${of('decode')} | ${of('load')} |`);
    }
  }
}

await main();
