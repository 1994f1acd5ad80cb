// The service worker. It answers from a cache that belongs to one version of the site, so that pages work offline after
// they were visited once; and it gives pages and workers the isolation headers that threads need, where the host sends none.
//
// web/site.mjs writes the next four lines anew: a version made from all files, the files of all pages, every file of the
// site, and what each script imports.
const VERSION = 'unstamped';
const SHELL = [];
const FILES = [];
const IMPORTS = {};

const SCOPE = self.registration.scope;
const NAME = `sterna ${VERSION} ${SCOPE}`;
const shell = SHELL.map((path) => SCOPE + path);
const files = new Set(FILES.map((path) => SCOPE + path));

self.addEventListener('install', (event) => {
  // The first one has nothing to wait for; a later one takes over when it has all its files and the person agrees.
  event.waitUntil(self.registration.active ? renew() : self.skipWaiting());
});

self.addEventListener('activate', (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await older()) await caches.delete(name);
      await self.clients.claim();
    })(),
  );
});

self.addEventListener('message', (event) => {
  if (event.data?.type === 'activate') event.waitUntil(self.skipWaiting());
  if (event.data?.type === 'keep') {
    event.waitUntil(store([...shell, ...withImports(event.data.urls)], 'force-cache').then((kept) => event.ports[0]?.postMessage(kept)));
  }
});

self.addEventListener('fetch', (event) => {
  const { request } = event;
  // Parts of files, and whatever is not this site's, are the browser's own business.
  if (request.method !== 'GET' || !request.url.startsWith(SCOPE) || request.headers.has('range')) return;
  if (request.cache === 'only-if-cached' && request.mode !== 'same-origin') return;
  event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const key = keyOf(request.url);
  const cache = await caches.open(NAME).catch(() => undefined);
  const hit = files.has(key) ? await cache?.match(key, { ignoreVary: true }) : undefined;
  const response = hit ?? (await fetch(request));
  if (!hit && cache && files.has(key) && response.status === 200) {
    // A full disk is no reason to fail.
    event.waitUntil(cache.put(key, response.clone()).catch(() => {}));
  }
  return ['document', 'iframe', 'worker', 'sharedworker'].includes(request.destination) ? isolate(response) : response;
}

/** The response with the headers that make `crossOriginIsolated` true. Only pages and workers need them. */
function isolate(response) {
  const isolated = response.headers.has('Cross-Origin-Embedder-Policy');
  if (response.type === 'opaque' || response.type === 'opaqueredirect' || (isolated && !response.redirected)) return response;
  const headers = new Headers(response.headers);
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp');
  headers.set('Cross-Origin-Opener-Policy', 'same-origin');
  headers.set('Cross-Origin-Resource-Policy', 'same-origin');
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** The address under which a file is stored: without query and fragment, a folder being its index.html. */
function keyOf(url) {
  const path = url.replace(/[?#].*/s, '');
  return path.endsWith('/') ? `${path}index.html` : path;
}

/** Adds files that are missing; says whether all are there. */
async function store(urls, mode) {
  const cache = await caches.open(NAME);
  const wanted = [...new Set(urls.map(keyOf))].filter((url) => files.has(url));
  const stored = await Promise.all(
    wanted.map(async (url) => {
      if (await cache.match(url, { ignoreVary: true })) return true;
      const response = await fetch(url, { cache: mode });
      if (response.status !== 200) return false;
      await cache.put(url, response);
      return true;
    }),
  ).catch(() => [false]);
  return stored.every(Boolean);
}

/** The new version of all pages and of what the old version had stored: all of it, or the update waits for another day. */
async function renew() {
  const had = [];
  for (const name of await older()) had.push(...(await (await caches.open(name)).keys()).map((request) => request.url));
  if (!(await store([...shell, ...withImports(had)], 'no-cache'))) throw new Error('the new version could not be fetched whole');
}

/** Caches of this site's other versions. */
async function older() {
  return (await caches.keys()).filter((name) => name.startsWith('sterna ') && name.endsWith(` ${SCOPE}`) && name !== NAME);
}

/** Files and, as the page does not see what its workers import, all that they import. */
function withImports(urls) {
  const all = new Set(urls);
  for (const url of all) {
    for (const path of IMPORTS[url.slice(SCOPE.length)] ?? []) all.add(SCOPE + path);
  }
  return all;
}
