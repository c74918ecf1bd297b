
// Keeps the page for use without a network, and gives it the headers that threads and a strict policy need.

const POLICY = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
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
  const page = request.mode === "navigate";
  const cache = await caches.open(VERSION);
  const kept = await cache.match(page ? "./" : request, { ignoreSearch: true });
  const { body, status, statusText, headers } = kept ?? (await fetch(request));
  const more = new Headers(headers);
  for (const [name, value] of Object.entries(POLICY)) more.set(name, value);
  return new Response(body, { status, statusText, headers: more });
}
