// The page of digits: a pad, and what the classifier makes of it while it is drawn on.

import { load } from '../sterna/index.js';
import { $, el } from './dom.js';
import { show } from './failure.js';
import { bytes, duration, number, percent } from './format.js';
import { Pad } from './ink.js';
import { DIGITS } from './samples.js';
import { engine, file, keep } from './site.js';

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const bars = DIGITS.map((_, digit) => {
  const fill = el('div', { class: 'fill' });
  const share = el('span', { class: 'share' }, '–');
  const item = el('li', {}, String(digit), el('div', { class: 'track', 'aria-hidden': 'true' }, fill), share);
  $('bars').append(item);
  return { fill, share, item };
});
DIGITS.forEach((strokes, digit) => {
  const draw = () => pad.show(strokes, calm.matches);
  $('samples').append(el('li', {}, el('button', { type: 'button', 'aria-label': `Draw a ${digit}`, click: draw }, String(digit))));
});

const pad = new Pad($('pad'), {
  changed(done) {
    const empty = pad.strokes.length === 0;
    $('undo').disabled = $('clear').disabled = empty;
    $('hint').classList.toggle('away', !empty);
    read(done);
  },
  said: (words) => ($('pen').textContent = words),
});
$('undo').addEventListener('click', () => pad.undo());
$('clear').addEventListener('click', () => {
  pad.clear();
  $('pad').focus({ preventScroll: true });
});

let model;
let reading = false;
let again = false;
let summary;
const times = [];

/** Classifies the drawing as it is now; what changes meanwhile is read right after. */
async function read(done) {
  again = true;
  if (done) {
    clearTimeout(summary);
    summary = setTimeout(() => ($('summary').textContent = $('answer').dataset.words ?? ''), 700);
  }
  if (!model || reading) return;
  reading = true;
  try {
    while (again) {
      again = false;
      if (pad.strokes.length === 0) blank();
      else present(await model.classifyDrawing(pad.picture()));
    }
    show($('failure'));
  } catch (error) {
    show($('failure'), error);
  } finally {
    reading = false;
  }
}

function present({ label, probabilities, seconds, seen }) {
  if (pad.strokes.length === 0) return;
  const digit = Number(label);
  $('answer').textContent = String(digit);
  $('answer').dataset.words = `It reads a ${digit}, ${percent(probabilities[digit])}`;
  $('sure').textContent = percent(probabilities[digit]);
  bars.forEach(({ fill, share, item }, i) => {
    fill.style.setProperty('--share', probabilities[i]);
    share.textContent = percent(probabilities[i]);
    item.classList.toggle('first', i === digit);
  });
  times.push(seconds);
  if (times.length > 21) times.shift();
  $('time').textContent = duration(times.toSorted((a, b) => a - b)[times.length >> 1]);
  look(seen);
}

function blank() {
  $('answer').textContent = '–';
  $('answer').dataset.words = 'The pad is empty';
  $('sure').textContent = 'Nothing drawn yet';
  for (const { fill, share, item } of bars) {
    fill.style.setProperty('--share', 0);
    share.textContent = '–';
    item.classList.remove('first');
  }
  look(new Uint8Array(28 * 28));
}

/** Shows the 28 x 28 pixels that the network was given. */
function look(pixels) {
  const image = new ImageData(28, 28);
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  $('seen').getContext('2d').putImageData(image, 0, 0);
}

try {
  model = await load(file('models/mnist.gguf'), { text: false, cache: false });
  $('size').textContent = bytes(model.info.fileBytes ?? model.info.packedBytes);
  $('bits').textContent = number(model.info.bitsPerWeight);
  engine(model.info);
  performance.mark('model-ready');
  if (pad.strokes.length > 0) read(true);
  keep();
} catch (error) {
  show($('failure'), error);
}
