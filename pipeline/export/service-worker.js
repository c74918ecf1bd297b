
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

// Other pages may be in the scope, such as other projects of the same host: their requests are left to the browser.
const addresses = (names) => names.map((name) => new URL(name, location.href).href);
const PAGE = addresses(["./", "index.html"]);
const OWN = [...PAGE, ...addresses(FILES)];

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const address = origin + pathname;
  if (request.method === "GET" && OWN.includes(address)) event.respondWith(answer(request, address));
});

async function answer(request, address) {
  const cache = await caches.open(VERSION);
  const kept = await cache.match(PAGE.includes(address) ? "./" : request, { ignoreSearch: true });
  const found = kept ?? (await fetch(request));
  const { body, status, statusText, headers } = found;
  if (status === 0) return found; // a redirect, which the browser follows; such a response cannot be copied
  const more = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) more.set(name, value);
  return new Response(body, { status, statusText, headers: more });
}
