// A play set as one: a paragraph a speech, names of speakers apart. The element's text stays exactly what was written.

import { el } from './dom.js';

export class Play {
  #element;
  #speech;
  #end;
  #line = '';

  constructor(element) {
    this.#element = element;
  }

  /** An empty page, or one that begins with what was asked for. */
  begin(asked = '') {
    this.#element.replaceChildren();
    this.#line = '';
    this.#open();
    if (asked) this.write(asked, 'asked');
  }

  /** Appends text. */
  write(text, mark) {
    // Cut after each newline: a blank line ends a speech, a first line that ends in a colon is a name.
    for (const part of text.split(/(?<=\n)/)) {
      if (mark) this.#speech.append((this.#end = el('span', { class: mark }, part)));
      else this.#append(part);
      this.#line += part;
      if (!part.endsWith('\n')) continue;
      if (/^[^\n]{1,40}:\n$/.test(this.#line) && this.#speech.textContent === this.#line) this.#name();
      if (this.#line === '\n') this.#open();
      this.#line = '';
    }
  }

  #append(text) {
    if (this.#end?.nodeType !== Node.TEXT_NODE) this.#speech.append((this.#end = document.createTextNode('')));
    this.#end.appendData(text);
  }

  #name() {
    const name = this.#line.slice(0, -1);
    this.#speech.replaceChildren(el('b', {}, name), '\n');
    this.#end = undefined;
  }

  #open() {
    this.#speech = el('p');
    this.#end = undefined;
    this.#element.append(this.#speech);
  }
}
