// Keeps the page for offline use: from the server while it answers, from the cache otherwise. The bundle's large files are
// kept by bundle.js.

const CACHE = 'pecore-page';
const PAGE = [
  './', 'style.css', 'icon.svg', 'app.js', 'page.js', 'bundle.js', 'model.js', 'engine.js', 'accelerator.js', 'worker.js', 'preprocess.js',
  'weights.js', 'unpack.js',
  'classify.js', 'camera.js', 'labels.js', 'picker.js', 'scores.js', 'ownlabels.js', 'labellist.js',
  'texttower.js', 'tokenizer.js', 'clean.js', 'entities.json',
  'search.js', 'folder.js', 'indexer.js', 'photostore.js', 'vectors.js', 'grid.js',
  'selftest.js', 'runs.js', 'figures.js', 'npz.js',
  'vendor/litert/litert.js', 'vendor/litert/wasm-utils.js', 'vendor/litert/version.js', 'vendor/tokenizers/tokenizers.js',
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
