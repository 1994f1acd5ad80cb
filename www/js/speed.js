// The page of speed: what this browser can run, and how fast each of it is.

import { benchmark, load, support } from '../sterna/index.js';
import { bars } from './chart.js';
import { $, copy, el, facts } from './dom.js';
import { isAbort, show } from './failure.js';
import { many, number } from './format.js';
import { file, isolated, keep } from './site.js';

/** What is measured: so many tokens, or as many as come in so many seconds. */
const TOKENS = 256;
const SECONDS = 2;
/** What kernels are, in words. */
const ABOUT = { 'relaxed-simd': 'relaxed SIMD', simd128: 'SIMD128', scalar: 'scalar' };
const SETTINGS = { maxTokens: TOKENS, seed: 1, temperature: 0.8, slide: true, ignoreEos: true };

let browser;
let running;
/** What was measured: { browser, gops: [{ kernel, threads, gops }], tokens: [{ kernel, threads, tokensPerSecond }] }. */
let result;

async function begin() {
  await isolated();
  browser = await support();
  $('browser').replaceChildren(...facts([
    ['SIMD128', browser.simd ? 'yes' : 'no'],
    ['Relaxed SIMD', browser.relaxedSimd ? 'yes' : 'no'],
    ['Threads', browser.threads > 1 ? String(browser.threads) : browser.isolated ? '1' : '1, this page is not isolated'],
    ['Build chosen', browser.variant],
  ]));
  $('measure').disabled = false;
}

async function measure() {
  const own = new AbortController();
  running = own;
  $('measure').textContent = 'Stop';
  for (const id of ['copy-json', 'copy-markdown']) $(id).hidden = true;
  show($('failure'));
  result = { browser, userAgent: navigator.userAgent, cores: navigator.hardwareConcurrency, date: new Date().toISOString(), gops: [], tokens: [] };
  try {
    $('status').textContent = 'Measuring the kernels';
    $('results').hidden = $('numbers').hidden = false;
    draw([]);
    const threads = browser.threads > 1 ? [browser.threads, 1] : [1];
    const measured = [];
    for (const n of threads) {
      // Browsers run code in a first, slow compilation until a better one is ready: the first round is for that.
      await benchmark({ threads: n, seconds: 0.4, signal: own.signal });
      measured.push(await benchmark({ threads: n, seconds: 0.4, signal: own.signal }));
    }
    // Kernels fastest first, each with all threads and with one.
    result.gops = measured[0].flatMap((_, i) => measured.map((rows) => rows[i]));
    const plan = result.gops.map((row) => ({ kernel: row.kernel, threads: row.threads }));
    draw(plan);
    const bytes = await (await fetch(file('models/shakespeare.gguf'), { signal: own.signal })).blob();
    for (const step of plan) {
      own.signal.throwIfAborted();
      $('status').textContent = `Measuring ${ABOUT[step.kernel] ?? step.kernel} with ${many(step.threads, 'thread')}`;
      result.tokens.push(await tokens(bytes, step, own.signal));
      draw(plan);
    }
    $('status').textContent = `Done. ${verdict()}`;
    for (const id of ['copy-json', 'copy-markdown']) $(id).hidden = false;
    keep();
  } catch (error) {
    $('status').textContent = isAbort(error) ? 'Stopped.' : 'The measurement failed.';
    show($('failure'), error);
  }
  running = undefined;
  $('measure').textContent = 'Measure again';
}

async function tokens(bytes, { kernel, threads }, signal) {
  const model = await load(bytes, { kernel, threads, signal });
  try {
    // As above: the first second does not count.
    await run(model, { maxTokens: undefined, signal }, 1);
    return { kernel, threads: model.info.threads, tokensPerSecond: (await run(model, { signal }, SECONDS)).tokensPerSecond };
  } finally {
    model.free();
  }
}

/** Generates until all tokens are there or the time is over; gives the speed. */
async function run(model, options, seconds) {
  const generation = model.generate('\n', { ...SETTINGS, ...options });
  const start = performance.now();
  for await (const _ of generation) if (performance.now() - start > 1000 * seconds) break;
  return generation.stats;
}

const nameOf = ({ kernel, threads }) => `${ABOUT[kernel] ?? kernel}, ${many(threads, 'thread')}`;

function draw(plan) {
  const speeds = plan.map((step, i) => {
    const value = result.tokens[i]?.tokensPerSecond;
    return { name: nameOf(result.tokens[i] ?? step), value, text: value === undefined ? 'waiting' : number(value) };
  });
  const gops = result.gops.map((row) => ({ name: nameOf(row), value: row.gops, text: number(row.gops) }));
  for (const [id, rows] of [['tokens', speeds], ['gops', gops]]) {
    $(id).querySelector('svg, .waiting')?.remove();
    $(id).append(rows.length > 0 ? bars($(`${id}-title`).textContent, rows) : el('p', { class: 'waiting quiet small' }, 'Measuring'));
  }
  if (plan.length > 0) $('table').replaceChildren(table());
}

function rows() {
  const scalar = result.tokens.find((row) => row.kernel === 'scalar' && row.threads === 1)?.tokensPerSecond;
  return result.tokens.map((row) => ({
    ...row,
    gops: result.gops.find((other) => other.kernel === row.kernel && other.threads === row.threads)?.gops,
    times: scalar && row.tokensPerSecond / scalar,
  }));
}

function table() {
  return el('table', {},
    el('caption', {}, `Up to ${TOKENS} tokens of the Shakespeare model; GOPS of a ternary matrix of 2,048 × 2,048, a multiply and an add being two operations`),
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Kernel'), ...['Threads', 'Tokens per second', 'Against scalar', 'GOPS'].map((name) => el('th', { scope: 'col', class: 'end' }, name)))),
    el('tbody', {}, ...rows().map((row) => el('tr', {},
      el('th', { scope: 'row' }, ABOUT[row.kernel] ?? row.kernel),
      el('td', { class: 'end' }, String(row.threads)),
      el('td', { class: 'end' }, number(row.tokensPerSecond)),
      el('td', { class: 'end' }, row.times ? `${number(row.times)} ×` : '–'),
      el('td', { class: 'end' }, row.gops === undefined ? '–' : number(row.gops)),
    ))),
  );
}

function verdict() {
  const best = rows().reduce((a, b) => (b.tokensPerSecond > a.tokensPerSecond ? b : a));
  return best.times && best.kernel !== 'scalar' ? `${nameOf(best)}: ${number(best.times)} times as fast as scalar with one.` : '';
}

function markdown() {
  const lines = rows().map((row) => `| ${row.kernel} | ${row.threads} | ${number(row.tokensPerSecond)} | ${row.times ? number(row.times) : ''} | ${row.gops === undefined ? '' : number(row.gops)} |`);
  return [
    `Sterna, Shakespeare model, up to ${TOKENS} tokens; ${result.cores} logical cores, ${result.userAgent}, ${result.date.slice(0, 10)}`,
    '',
    '| kernel | threads | tokens/s | times scalar | GOPS |',
    '| --- | ---: | ---: | ---: | ---: |',
    ...lines,
    '',
  ].join('\n');
}

$('measure').addEventListener('click', () => (running ? running.abort() : measure()));
$('copy-json').addEventListener('click', () => copy($('copy-json'), JSON.stringify(result, null, 2)));
$('copy-markdown').addEventListener('click', () => copy($('copy-markdown'), markdown()));

begin().then(keep, (error) => show($('failure'), error));
