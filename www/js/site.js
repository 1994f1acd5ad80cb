// What all pages share: the theme button, the note about updates, the line about the engine.

import { $, el } from './dom.js';
import { many } from './format.js';
import { keep as store, onUpdate } from './offline.js';

export { isolated } from './offline.js';

const system = matchMedia('(prefers-color-scheme: dark)');
const root = document.documentElement;
const button = $('theme');

const isDark = () => (root.dataset.theme ?? (system.matches ? 'dark' : 'light')) === 'dark';

function theme() {
  button.setAttribute('aria-pressed', String(isDark()));
  const paper = getComputedStyle(document.body).backgroundColor;
  for (const meta of document.querySelectorAll('meta[name="theme-color"]')) meta.content = paper;
  dispatchEvent(new Event('themechange'));
}

button.addEventListener('click', () => {
  const chosen = isDark() ? 'light' : 'dark';
  // Back to the system's own theme is no choice of its own: it goes on following the system.
  const own = chosen !== (system.matches ? 'dark' : 'light');
  if (own) root.dataset.theme = chosen;
  else delete root.dataset.theme;
  try {
    if (own) localStorage.setItem('theme', chosen);
    else localStorage.removeItem('theme');
  } catch {
    // Storage is blocked: the choice holds for this page.
  }
  theme();
});
system.addEventListener('change', theme);
theme();

onUpdate((activate) => {
  document.querySelector('.notice')?.remove();
  document.body.append(
    el('div', { class: 'notice', role: 'status' }, 'A new version is here.', el('button', { type: 'button', click: activate }, 'Reload')),
  );
});

/** Says at the foot of the page what the model runs on. */
export function engine(info) {
  $('engine').textContent = `${info.kernel}, ${many(info.threads, 'thread')}`;
}

/** Stores what the page has loaded, and says so at the foot of the page. */
export async function keep() {
  if (await store()) $('offline').textContent = 'Works offline.';
}

/** The address of one of the site's own files. */
export const file = (path) => new URL(path, document.baseURI).href;
