// A model's card: what is in the file, and what it runs on.

import { el, facts } from './dom.js';
import { bytes, count, duration, many, number, weights } from './format.js';

/** Fills `place` with the card; called again when more is known. */
export function card(place, info, fallbackName) {
  const formats = Object.entries(info.formats ?? {}).sort((a, b) => b[1] - a[1]);
  const tone = (i) => `tone-${Math.min(i, 4)}`;
  const warnings = info.warnings ?? [];
  const picture = info.image;
  place.replaceChildren(
    el('div', { class: 'card-head' },
      el('div', {}, el('h2', { id: 'card-title' }, info.name || fallbackName || 'Model'), info.description ? el('p', { class: 'quiet' }, info.description) : ''),
    ),
    el('dl', { class: 'facts' }, ...facts([
      ['Architecture', info.architecture],
      ['Quantization', info.quantization],
      ['Weights', info.parameters && weights(info.parameters)],
      ['Bits per weight', info.bitsPerWeight && number(info.bitsPerWeight)],
      ['File', info.fileBytes && bytes(info.fileBytes)],
      ['In memory', info.packedBytes && bytes(info.packedBytes)],
      ['Context', (info.context ?? info.contextLength) && many(info.context ?? info.contextLength, 'token')],
      ['Vocabulary', info.vocabulary && count(info.vocabulary)],
      ['Layers', info.layers && String(info.layers)],
      ['Width', info.embeddingLength && count(info.embeddingLength)],
      ['Pictures', picture && `${picture.width} × ${picture.height}, ${count(picture.classes.length)} classes`],
      ['Chat template', info.kind === 'text' ? (info.hasChatTemplate ? 'yes' : 'none') : undefined],
      ['Runs on', info.kernel && `${info.kernel}, ${many(info.threads ?? 1, 'thread')}`],
      ['Loaded in', info.loadSeconds && duration(info.loadSeconds)],
      ['Licence', info.license],
    ])),
  );
  if (formats.length > 0) {
    const splits = formats.map(([, size], i) => el('span', { class: tone(i), 'data-bytes': size }));
    for (const [i, split] of splits.entries()) split.style.setProperty('--bytes', formats[i][1]);
    place.append(
      el('div', {},
        el('h3', { class: 'small quiet' }, 'Tensors by type'),
        el('div', { class: 'split', 'aria-hidden': 'true' }, ...splits),
        el('ul', { class: 'key' }, ...formats.map(([type, size], i) => el('li', { class: tone(i) }, `${type} ${bytes(size)}`))),
      ),
    );
  }
  if (warnings.length > 0) {
    place.append(el('div', {}, el('h3', { class: 'small quiet' }, 'Warnings'), el('ul', { class: 'warnings' }, ...warnings.map((text) => el('li', {}, text)))));
  }
  place.hidden = false;
}
