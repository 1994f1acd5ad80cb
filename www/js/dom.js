// Small helpers to find and make elements. Text only ever enters as text, never as markup.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** An element: `el('p', { class: 'quiet' }, 'text', other)`. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== false));
  return element;
}

/** A list of terms: pairs of name and value; pairs without a value are left out. */
export function facts(pairs) {
  return pairs.filter(([, value]) => value !== undefined && value !== '').map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)));
}

/** Copies text and says so on the button for a moment. */
export async function copy(button, text) {
  const name = button.dataset.name ??= button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    button.textContent = 'Copying is blocked';
  }
  setTimeout(() => (button.textContent = name), 1600);
}
