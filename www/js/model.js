// The page for any model: opens it from a file or an address, shows its card, then chats, or continues a text.

import { cache, load } from '../sterna/index.js';
import { card } from './card.js';
import { $, el } from './dom.js';
import { isAbort, show } from './failure.js';
import { bytes, count, many, number } from './format.js';
import { engine, isolated, keep } from './site.js';
import { Follower, Frames, seen } from './stream.js';

let model;
let opening;
let generating;
/** The conversation so far, system prompt apart. */
let messages = [];

const state = (words) => ($('state').textContent = words);
/** The number in a field, or undefined where it is empty. */
const value = (id) => ($(id).value.trim() === '' ? undefined : Number($(id).value));

// Opening

/** What was typed: an address, or owner/repository/file on the hub. */
function source(typed) {
  if (/^(https?:)?\/\//i.test(typed) || /^\.{0,2}\//.test(typed)) {
    const url = new URL(typed, document.baseURI);
    // The hub's page about a file, rather than the file.
    if (url.hostname === 'huggingface.co') url.pathname = url.pathname.replace('/blob/', '/resolve/');
    return [url, decodeURIComponent(url.pathname.split('/').at(-1))];
  }
  const [owner, name, ...rest] = typed.replace(/^hf:/, '').split('/');
  if (owner && name && rest.length > 0) return [{ repo: `${owner}/${name}`, file: rest.join('/') }, rest.at(-1)];
  const message = name ? `which file of ${owner}/${name}? add it: ${owner}/${name}/file.gguf` : 'type an address that begins with https://, or owner/repository/file.gguf';
  throw Object.assign(new Error(message), { code: 'invalid-argument' });
}

async function open(from, name) {
  opening?.abort();
  generating?.abort();
  const own = new AbortController();
  opening = own;
  const mine = () => opening === own;
  model?.free();
  model = undefined;
  show($('failure'));
  for (const id of ['card', 'talk']) $(id).hidden = true;
  $('loading-name').textContent = name;
  $('loading-text').textContent = 'Asking for the file';
  $('progress').removeAttribute('value');
  $('loading').hidden = false;
  state(`Loading ${name}`);
  try {
    const loaded = await load(from, {
      signal: own.signal,
      context: value('context'),
      threads: value('threads'),
      onProgress: progress(mine),
      onCard: (info) => mine() && card($('card'), info, name),
    });
    if (!mine()) return loaded.free();
    model = loaded;
    card($('card'), model.info, name);
    engine(model.info);
    state(`${model.info.name || name} is ready`);
    talk();
    keep();
  } catch (error) {
    if (!mine()) return;
    $('card').hidden = true;
    state(isAbort(error) ? 'Loading was cancelled' : '');
    show($('failure'), error);
  } finally {
    if (mine()) {
      opening = undefined;
      $('loading').hidden = true;
      list();
    }
  }
}

/** Shows how far the download is, once a frame. */
function progress(mine) {
  const start = performance.now();
  let latest;
  let frame = 0;
  return (now) => {
    latest = now;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (!mine()) return;
      const { loaded, total, phase } = latest;
      const seconds = (performance.now() - start) / 1000;
      $('loading-text').textContent = `${bytes(loaded)}${total ? ` of ${bytes(total)}` : ''}${phase === 'cache' ? ', from this device' : ''}${seconds > 0.5 ? `, ${bytes(loaded / seconds)} per second` : ''}`;
      if (total) Object.assign($('progress'), { max: total, value: loaded });
    });
  };
}

/** Opens a file, or the parts of a split model that were given together. */
function openFiles(files) {
  const all = [...files];
  if (all.length > 0) open(all.length === 1 ? all[0] : all, all.length === 1 ? all[0].name : `${all[0].name} and ${many(all.length - 1, 'file')} more`);
}

const drop = $('drop');
const carriesFile = (event) => event.dataTransfer?.types.includes('Files');
// A file dropped beside the zone would replace the page.
addEventListener('dragover', (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  drop.classList.add('over');
});
addEventListener('dragleave', (event) => event.relatedTarget ?? drop.classList.remove('over'));
addEventListener('drop', (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  drop.classList.remove('over');
  openFiles(event.dataTransfer.files);
});
$('file').addEventListener('change', () => {
  openFiles($('file').files);
  $('file').value = '';
});
$('from-address').addEventListener('submit', (event) => {
  event.preventDefault();
  try {
    open(...source($('address').value.trim()));
  } catch (error) {
    show($('failure'), error);
    $('address').focus();
  }
});
$('cancel').addEventListener('click', () => opening?.abort());

// Talking

const follower = new Follower($('messages'));
const reader = new Follower($('written'));

/** Shows what can be done with the model: chat, or continue a text. */
function talk() {
  if (model.info.kind !== 'text') {
    state('This model classifies pictures. The page Digits has a pad for such a model.');
    return;
  }
  const chats = model.info.hasChatTemplate;
  $('talk-title').textContent = chats ? 'Chat' : 'Continue a text';
  $('say-label').textContent = chats ? 'Message' : 'Text to continue';
  $('say').placeholder = chats ? 'Say something' : 'Once upon a time';
  $('send').textContent = chats ? 'Send' : 'Continue';
  $('messages').hidden = !chats;
  $('written').hidden = chats;
  $('system-field').hidden = !chats;
  $('talk').hidden = false;
  fresh();
}

function fresh() {
  generating?.abort();
  messages = [];
  $('messages').replaceChildren();
  $('written').replaceChildren();
  $('messages').hidden = true;
  $('written').hidden = true;
  $('speed').textContent = '';
  show($('talk-failure'));
}

function sampling(signal) {
  return {
    signal,
    maxTokens: value('max-tokens'),
    temperature: value('temperature'),
    topK: value('top-k'),
    topP: value('top-p'),
    minP: value('min-p'),
    repeatPenalty: value('repeat-penalty'),
    seed: value('model-seed') ?? Math.floor(Math.random() * 2 ** 31),
  };
}

async function send() {
  const said = $('say').value;
  if (!model || generating || said === '') return;
  const own = new AbortController();
  generating = own;
  show($('talk-failure'));
  const name = $('send').textContent;
  $('send').textContent = 'Stop';
  const chats = model.info.hasChatTemplate;
  const node = document.createTextNode('');
  let place;
  let answer = '';
  if (chats) {
    messages.push({ role: 'user', content: said });
    place = el('li', { class: 'assistant' }, node);
    $('messages').hidden = false;
    $('messages').append(el('li', { class: 'user' }, el('span', { class: 'unseen' }, 'You: '), said), place);
    $('say').value = '';
  } else {
    place = $('written');
    place.hidden = false;
    place.replaceChildren(el('span', { class: 'asked' }, said), node);
  }
  const at = chats ? follower : reader;
  at.toEnd();
  const frames = new Frames((more) => {
    // Chat answers often begin with blank lines; a text that is continued keeps them.
    node.appendData(chats && node.length === 0 ? more.trimStart() : more);
    at.added();
  });
  place.setAttribute('aria-busy', 'true');
  const options = sampling(own.signal);
  const system = $('system').value.trim();
  let generation;
  let failure;
  try {
    generation = chats
      ? model.chat(system ? [{ role: 'system', content: system }, ...messages] : messages, options)
      : model.generate(said, options);
    for await (const piece of generation) {
      if (own.signal.aborted) break;
      const more = chats ? (piece.choices[0]?.delta?.content ?? '') : piece;
      answer += more;
      frames.add(more);
      await seen();
    }
  } catch (error) {
    if (!isAbort(error)) failure = error;
  }
  frames.flush();
  place.removeAttribute('aria-busy');
  if (generating === own) generating = undefined;
  $('send').textContent = name;
  show($('talk-failure'), failure);
  // What was started over meanwhile has no place for this answer.
  if (!place.isConnected) return;
  if (chats) {
    if (answer === '') {
      // Nothing came: the message goes back to where it can be sent again.
      messages.pop();
      place.previousElementSibling?.remove();
      place.remove();
      $('say').value ||= said;
    } else messages.push({ role: 'assistant', content: answer });
  }
  const stats = generation?.stats;
  const why = generation?.finishReason;
  if (stats) {
    const cut = why === 'length' ? ', cut at the limit' : why === 'context' ? ', the context is full' : '';
    $('speed').textContent = `${many(stats.tokens, 'token')}, ${number(stats.tokensPerSecond)} per second, prompt of ${count(stats.promptTokens)}${cut}`;
  }
  state(answer.length < 600 ? `Answer: ${answer}` : `Answer of ${count(answer.length)} characters`);
}

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  if (generating) generating.abort();
  else send();
});
$('say').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && model?.info.hasChatTemplate) {
    event.preventDefault();
    send();
  }
});
$('fresh').addEventListener('click', () => {
  fresh();
  $('say').focus();
});

// What is kept

async function list() {
  const stored = await cache.list().catch(() => []);
  const total = stored.reduce((sum, entry) => sum + entry.bytes, 0);
  const remove = (what, work) => async () => {
    try {
      await work();
      state(`${what} was deleted`);
    } catch (error) {
      show($('failure'), error);
    }
    await list();
    $('stored-title').focus();
  };
  const row = ({ url, bytes: size, stored: when }) => {
    const name = decodeURIComponent(new URL(url).pathname.split('/').at(-1)) || url;
    return el('tr', {},
      el('th', { scope: 'row', class: 'name', title: url }, name),
      el('td', { class: 'end' }, bytes(size)),
      el('td', { class: 'when' }, el('time', { datetime: when.toISOString() }, when.toLocaleDateString('en-GB', { dateStyle: 'medium' }))),
      el('td', { class: 'end' },
        el('button', { type: 'button', class: 'plain', 'aria-label': `Open ${name}`, click: () => open(new URL(url), name) }, 'Open'),
        el('button', { type: 'button', class: 'plain', 'aria-label': `Delete ${name}`, click: remove(name, () => cache.delete(url)) }, 'Delete'),
      ),
    );
  };
  if (stored.length === 0) {
    $('stored-list').replaceChildren(el('p', { class: 'quiet small' }, 'Nothing yet. Models from an address are kept here after their first download.'));
    return;
  }
  $('stored-list').replaceChildren(
    el('table', {},
      el('caption', {}, `${many(stored.length, 'model')}, ${bytes(total)} in all`),
      el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'File'), el('th', { scope: 'col', class: 'end' }, 'Size'), el('th', { scope: 'col', class: 'when' }, 'Since'), el('td', {}))),
      el('tbody', {}, ...stored.map(row)),
    ),
    el('button', { type: 'button', class: 'plain', click: remove('Everything', () => cache.clear()) }, 'Delete all'),
  );
}

isolated().then(keep);
list();
