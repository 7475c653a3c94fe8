// Keeps the page for offline use: from the server while it answers, from the cache otherwise. The bundle's large files are
// kept by bundle.js.

const CACHE = 'pecore-page';
const PAGE = [
  './', 'style.css', 'icon.svg', 'app.js', 'page.js', 'bundle.js', 'camera.js', 'engine.js', 'labels.js', 'picker.js', 'scores.js', 'clean.js', 'entities.json',
  'accelerator.js', 'selftest.js', 'runs.js', 'figures.js', 'npz.js', 'preprocess.js', 'worker.js',
  'vendor/litert/litert.js', 'vendor/litert/wasm-utils.js', 'vendor/litert/version.js',
];

self.addEventListener('install', (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  const bundleFile = url.pathname.includes('/bundle/') && !url.pathname.endsWith('/manifest.json');
  if (request.method === 'GET' && url.origin === self.location.origin && !bundleFile) event.respondWith(fresh(request));
});

async function fresh(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(key(request), response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(key(request));
    if (kept) return kept;
    throw error;
  }
}

/** ./ and ./?selftest are one page. */
const key = (request) => (request.mode === 'navigate' ? './' : request);
