// The page of plays: starts by itself where nothing speaks against it, and writes what seed and settings say.

import { load } from '../sterna/index.js';
import { $, copy } from './dom.js';
import { isAbort, show } from './failure.js';
import { bytes, count, duration, number } from './format.js';
import { Play } from './play.js';
import { engine, file, isolated, keep } from './site.js';
import { Follower, Frames, seen } from './stream.js';

/** Before each speech of a play stands a blank line: it is what an empty prompt means. */
const BLANK = '\n';

const play = new Play($('play'));
const follower = new Follower($('play'), (follows) => ($('follow').hidden = follows));
const frames = new Frames((text) => {
  play.write(text);
  follower.added();
});

const isolation = isolated();
let model;
let loading;
let running;

const randomSeed = () => String(1 + Math.floor(Math.random() * 999_999));

/** Settings from the address (`#seed=7&temperature=0.8&length=1000&prompt=...`); what is not there stays. */
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const seed = given.get('seed');
  $('seed').value = /^\d{1,15}$/.test(seed ?? '') ? seed : $('seed').value || randomSeed();
  const temperature = Number(given.get('temperature') ?? NaN);
  if (temperature >= 0 && temperature <= 1.5) $('temperature').value = String(temperature);
  if ([...$('length').options].some((option) => option.value === given.get('length'))) $('length').value = given.get('length');
  if (given.has('prompt')) $('prompt').value = given.get('prompt');
  $('temperature-value').value = Number($('temperature').value).toFixed(2);
}

/** Settings into the address, so that it can be shared. */
function toAddress() {
  const settings = new URLSearchParams({ seed: $('seed').value, temperature: $('temperature').value, length: $('length').value });
  if ($('prompt').value) settings.set('prompt', $('prompt').value);
  history.replaceState(null, '', `#${settings}`);
}

/** The model, loaded at the first call. */
function ready() {
  loading ??= (async () => {
    await isolation;
    model = await load(file('models/shakespeare.gguf'), { cache: false });
    $('size').textContent = bytes(model.info.fileBytes ?? model.info.packedBytes);
    $('bits').textContent = number(model.info.bitsPerWeight);
    engine(model.info);
    return model;
  })();
  // A failed load may be tried again.
  loading.catch(() => (loading = undefined));
  return loading;
}

async function write(since = performance.now()) {
  running?.abort();
  const own = new AbortController();
  running = own;
  $('run').textContent = 'Stop';
  $('run').disabled = $('again').disabled = false;
  $('play').setAttribute('aria-busy', 'true');
  $('status').textContent = model ? 'Writing' : 'Loading the model';
  show($('failure'));
  const prompt = $('prompt').value;
  const maxTokens = Number($('length').value) || undefined;
  const options = { maxTokens, seed: Number($('seed').value), temperature: Number($('temperature').value), slide: true, signal: own.signal };
  let written = 0;
  let first;
  try {
    toAddress();
    await Promise.race([ready(), stopped(own.signal)]);
    $('status').textContent = 'Writing';
    frames.flush();
    play.begin(prompt);
    follower.toEnd();
    await seen();
    for await (const piece of model.generate(prompt || BLANK, options)) {
      // Another run may have begun while this piece was on its way.
      if (running !== own || own.signal.aborted) break;
      const now = performance.now();
      if (first === undefined) {
        first = now;
        performance.mark('first-token');
        $('first').textContent = duration((now - since) / 1000);
      }
      frames.add(piece);
      written += piece.length;
      if (now - first > 100) rate(written, first, now);
      await seen();
    }
  } catch (error) {
    if (!isAbort(error) && running === own) show($('failure'), error);
  }
  if (running !== own) return;
  running = undefined;
  frames.flush();
  if (first !== undefined) rate(written, first, performance.now());
  $('run').textContent = written > 0 ? 'Write again' : 'Start';
  $('play').removeAttribute('aria-busy');
  $('status').textContent = `${own.signal.aborted ? 'Stopped' : 'Finished'} after ${count(written)} characters`;
  if (written > 0) keep();
}

/** Rejects when the signal fires. */
const stopped = (signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

/** A token of this model is a character. */
function rate(written, first, now) {
  $('rate').textContent = now > first ? count((written / (now - first)) * 1000) : '–';
  $('count').textContent = count(written);
}

$('run').addEventListener('click', () => {
  if (running) running.abort();
  else if ($('settings').reportValidity()) write();
});
$('again').addEventListener('click', () => {
  $('seed').value = randomSeed();
  write();
});
$('settings').addEventListener('submit', (event) => {
  event.preventDefault();
  write();
});
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('settings').requestSubmit();
});
$('temperature').addEventListener('input', () => ($('temperature-value').value = Number($('temperature').value).toFixed(2)));
$('share').addEventListener('click', () => {
  toAddress();
  copy($('share'), location.href);
});
$('follow').addEventListener('click', () => {
  follower.toEnd();
  $('play').focus({ preventScroll: true });
});
addEventListener('hashchange', () => {
  fromAddress();
  write();
});

fromAddress();
if (navigator.connection?.saveData) {
  $('run').disabled = $('again').disabled = false;
  $('status').textContent = 'Your connection asks to save data: the model, 1.5 MB and the engine, is loaded when you start.';
} else if (matchMedia('(prefers-reduced-motion: reduce)').matches) {
  $('run').disabled = $('again').disabled = false;
  ready().then(
    () => running || ($('status').textContent = 'Ready. It waits for you, as this device asks for less motion.'),
    (error) => running || show($('failure'), error),
  );
} else {
  write(0);
}
