// Horizontal bars as inline SVG. Widths are per cent of the figure and text is in pixels, so it fits any screen as it is.

import { svg } from './dom.js';

const ROW = 46;

/** Bars of `rows`: { name, value, text }. Those without a value yet are empty. The largest is marked. */
export function bars(title, rows) {
  const largest = Math.max(...rows.map((row) => row.value ?? 0), Number.MIN_VALUE);
  const figure = svg('svg', { role: 'img', height: rows.length * ROW, width: '100%', 'aria-label': `${title}: ${rows.map((row) => `${row.name} ${row.text}`).join(', ')}` });
  rows.forEach(({ name, value, text }, i) => {
    const top = i * ROW;
    const share = ((value ?? 0) / largest) * 100;
    figure.append(
      svg('text', { x: 0, y: top + 15 }, name),
      svg('text', { x: '100%', y: top + 15, 'text-anchor': 'end', class: value === undefined ? 'axis' : '' }, text),
      svg('rect', { class: 'ground', x: 0, y: top + 23, width: '100%', height: 11, rx: 5.5 }),
    );
    if (value !== undefined) figure.append(svg('rect', { class: value === largest ? 'best' : 'value', x: 0, y: top + 23, width: `${Math.max(share, 0.6)}%`, height: 11, rx: 5.5 }));
  });
  return figure;
}
