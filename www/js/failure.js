// Errors for people: what happened, in the words of the package, and what can be done about it, by the error's code.

import { el } from './dom.js';

/** What happened in a few words, and the remedy. */
const KNOWN = {
  network: ['The download failed', 'Look at the connection, then try again. A server must also allow other sites to read its files (CORS).'],
  http: ['The server refused the download', 'Look at the address. A file that needs a login cannot be fetched from here: download it and drop it.'],
  'not-found': ['There is no such file', 'Look at the spelling of the address, or of owner, repository and file.'],
  truncated: ['The file is not complete', 'Download it again: its end is missing.'],
  'not-gguf': ['This is not a GGUF file', 'Choose a file whose name ends in .gguf. Pages that link to a file are not the file.'],
  damaged: ['The file is damaged', 'Download or convert it again.'],
  unsupported: ['This model cannot be run', 'Choose a model of a supported architecture and format, for example llama, bitnet or qwen3 in TQ2_0.'],
  'out-of-memory': ['There is not enough memory', 'Close other tabs, choose a smaller context, or choose a smaller model.'],
  'context-full': ['The context is full', 'Start over, or load the model with a larger context.'],
  'wrong-kind': ['This model is of another kind', 'Text needs a language model, pictures need an image classifier.'],
  'no-tokenizer': ['The file has no vocabulary that can be read', 'Choose a file that was converted with its tokenizer.'],
  'no-chat-template': ['This model has no chat template', 'Let it continue a text instead.'],
  template: ['The model’s chat template failed', 'Try without a system prompt; some templates allow none.'],
  'invalid-argument': ['A setting does not fit', 'Change the setting that the message names.'],
  crashed: ['The engine stopped', 'Load the model again. If it happens again, the file may be broken.'],
  storage: ['This device’s storage cannot be used', 'Free some space, or allow this site to store data.'],
  'no-simd': ['This browser is too old', 'WebAssembly with SIMD is needed: any current browser has it.'],
};

/** Shows an error in its place; `undefined` takes it away. An abort is none. */
export function show(place, error) {
  place.hidden = true;
  place.replaceChildren();
  if (!error || isAbort(error)) return;
  console.info('error shown:', error);
  const code = typeof error.code === 'string' ? error.code : undefined;
  const [title, remedy] = KNOWN[code] ?? ['Something went wrong', 'Reload the page and try again.'];
  place.append(
    el('h2', {}, title),
    el('p', { class: 'cause' }, sentence(String(error.message || error))),
    el('p', { class: 'remedy' }, remedy),
  );
  if (code) place.append(el('p', { class: 'small quiet' }, 'Code ', el('code', {}, code)));
  place.hidden = false;
}

/** Whether it only says that someone stopped it. */
export const isAbort = (error) => error?.code === 'aborted' || error?.code === 'closed' || error?.name === 'AbortError';

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? '' : '.');
