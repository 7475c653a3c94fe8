// The page: a bundle, and the screen that its address asks for.

import { readManifest } from './bundle.js';
import { offerWeights, requireEmbedding } from './model.js';
import { $, endStage, showError } from './page.js';

const CONTROL_WAIT = 2000; // ms for the service worker to take over a first visit
const SCREENS = ['classify', 'search', 'selftest']; // the modules, too

/** Let the service worker keep what this page loads from now on, so that it opens without the server next time. */
async function keepOffline() {
  if (!navigator.serviceWorker) return;
  const control = new Promise((resolve) => navigator.serviceWorker.addEventListener('controllerchange', resolve, { once: true }));
  try {
    await navigator.serviceWorker.register(new URL('sw.js', import.meta.url));
    if (!navigator.serviceWorker.controller) await Promise.race([control, new Promise((resolve) => setTimeout(resolve, CONTROL_WAIT))]);
  } catch (error) {
    console.warn(`not kept for offline use: ${error.message}`); // a private window, for one
  }
}

function showBundle(manifest) {
  const { size, image_size: side, embedding_dim: dim } = manifest.variant;
  $('model').textContent = `${manifest.name}: ${size}, ${side} × ${side} pixels → ${dim} numbers`;
  $('synthetic').hidden = !manifest.weights.synthetic;
}

async function start() {
  const asked = new URLSearchParams(location.search);
  const screen = SCREENS.find((name) => asked.has(name)) ?? SCREENS[0];
  $(`to-${screen}`).setAttribute('aria-current', 'page');
  await keepOffline();
  const manifest = await readManifest();
  showBundle(manifest);
  if (screen !== 'selftest') {
    requireEmbedding(manifest);
    offerWeights(manifest);
  }
  await (await import(`./${screen}.js`)).start(manifest);
  $('choices').hidden = screen === 'selftest';
}

start().catch((error) => {
  endStage();
  showError(error);
});
