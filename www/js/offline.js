// The service worker, from the page's side: registers it, tells it what this visit needed so that the next works
// offline, offers updates, and on hosts that send no isolation headers reloads once so that the worker's count.
//
// Nothing depends on it: where it is blocked, pages work online and with one thread.

const KEY = 'reloaded-for-isolation';
/** How long a page waits for its first service worker before it goes on with one thread. */
const PATIENCE = 2500;

const workers = 'serviceWorker' in navigator && window.isSecureContext ? navigator.serviceWorker : undefined;
const registered = workers?.register('sw.js', { type: 'classic', updateViaCache: 'none' }).catch(() => undefined);

/**
 * Resolves when it is decided whether threads can be had. On a first visit without isolation headers the page reloads
 * instead, and this never resolves. Call it when the page starts: a person who has begun to use it is not interrupted, and
 * gets threads with the next page.
 */
export async function isolated() {
  if (window.crossOriginIsolated || !workers || navigator.hardwareConcurrency < 2) return;
  if (marked()) return;
  const used = new Promise((done) => {
    for (const event of ['pointerdown', 'keydown', 'drop']) addEventListener(event, () => done(false), { once: true, capture: true });
    setTimeout(done, PATIENCE, false);
  });
  const ready = registered.then((registration) => registration && workers.ready).then((found) => found && controlled());
  if (!(await Promise.race([used, ready])) || !mark()) return;
  location.reload();
  await new Promise(() => {});
}

/**
 * Stores what this page has loaded, for use without a network; says whether all of it is stored. Call it when the page's
 * work is under way.
 */
export async function keep() {
  const registration = await registered;
  if (!registration) return false;
  const worker = (await workers.ready).active;
  const here = new URL('./', document.baseURI).href;
  const used = performance.getEntriesByType('resource').map((entry) => entry.name);
  const urls = [...new Set([location.href.replace(/[?#].*/, ''), ...used])].filter((url) => url.startsWith(here));
  return new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => done(data);
    worker.postMessage({ type: 'keep', urls }, [port2]);
  });
}

/** Calls back when a newer version of the site waits; what it is given switches to it. */
export async function onUpdate(offer) {
  const registration = await registered;
  if (!registration) return;
  const waiting = (worker) => {
    if (!worker || !workers.controller) return;
    offer(() => {
      workers.addEventListener('controllerchange', () => location.reload(), { once: true });
      worker.postMessage({ type: 'activate' });
    });
  };
  waiting(registration.waiting);
  registration.addEventListener('updatefound', () => {
    const worker = registration.installing;
    worker?.addEventListener('statechange', () => worker.state === 'installed' && waiting(worker));
  });
}

async function controlled() {
  if (!workers.controller) await new Promise((done) => workers.addEventListener('controllerchange', done, { once: true }));
  return true;
}

function marked() {
  try {
    return sessionStorage.getItem(KEY) !== null;
  } catch {
    return true;
  }
}

/** Remembers the reload, so that there is never a second one. */
function mark() {
  try {
    sessionStorage.setItem(KEY, '1');
    return true;
  } catch {
    return false;
  }
}
