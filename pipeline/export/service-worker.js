
// Keeps the page for use without a network, and gives it the headers that threads and a strict policy need.

const HEADERS = {
  "Content-Security-Policy": POLICY,
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  // A file that the browser has kept is asked for again: it may be of an earlier version of the site.
  const fresh = FILES.map((name) => new Request(name, { cache: "no-cache" }));
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = (names) => names.filter((name) => name.startsWith(PREFIX) && name !== VERSION);
  event.waitUntil(caches.keys().then((names) => Promise.all(old(names).map((name) => caches.delete(name)))));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(request));
});

async function answer(request) {
  const { origin, pathname } = new URL(request.url);
  const page = [registration.scope, `${registration.scope}index.html`].includes(origin + pathname);
  const cache = await caches.open(VERSION);
  const kept = await cache.match(page ? "./" : request, { ignoreSearch: true });
  const { body, status, statusText, headers } = kept ?? (await fetch(request));
  const more = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) more.set(name, value);
  return new Response(body, { status, statusText, headers: more });
}
