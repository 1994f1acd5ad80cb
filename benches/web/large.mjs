// A large model in a browser: streamed from a local address in Chromium; time, memory and speed.
//
//   python3 benches/make_shape_model.py target/1.7b.gguf --shape 1.7b --format TQ2_0
//   node benches/web/large.mjs target/1.7b.gguf [--threads 2] [--tokens 32]
//
// Needs `npm run build` and a Chromium on PATH. The peak is the resident memory of the page's process (Linux).

import { readFileSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import { about, launch, serve, toPage } from './support.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string', default: '2' }, tokens: { type: 'string', default: '32' } },
});
if (positionals.length !== 1) throw new Error('which GGUF?');
const path = resolve(positionals[0]);

/** Peak resident bytes of the largest renderer among this process' descendants. */
function peak() {
  let most = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('--type=renderer')) continue;
      const kib = Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmHWM:\s+(\d+)/)[1]);
      most = Math.max(most, kib * 1024);
    } catch {
      // It has ended.
    }
  }
  return most;
}

const server = await serve({ '/models/': dirname(path) });
const browser = await launch();
try {
  const page = await toPage(browser, server);
  const wanted = { model: `models/${basename(path)}`, threads: Number(values.threads), tokens: Number(values.tokens), prompt: 'the sea and a tern' };
  const result = await page.evaluate((wanted) => window.measure('sterna', wanted), wanted);
  console.log(JSON.stringify({ ...about(), file: statSync(path).size, peakResident: peak(), ...result }, null, 1));
} finally {
  await browser.close();
  server.close();
}
