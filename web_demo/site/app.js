// The page: a bundle, a model, and what it says about a picture.

import { forgetOthers, readFile, readManifest } from './bundle.js';
import { startCamera } from './camera.js';
import { open } from './engine.js';
import { EMBEDDINGS_FILE, LABELS_FILE, mismatch, parseLabels } from './labels.js';
import { $, clearError, endStage, make, median, megabytes, milliseconds, nameOf, showError, showStage } from './page.js';
import { showPicker } from './picker.js';
import { readResize } from './preprocess.js';
import { rank } from './scores.js';

const TOP = 5;
const PREFERRED = ['fp16', 'fp32', 'int8']; // any other precision comes after these
const CONTROL_WAIT = 2000; // ms for the service worker to take over a first visit

const files = {}; // precision -> {name, bytes, sha256}
let manifest;
let labels = null; // {names, dim, embeddings, scale}, or null where the bundle has none
let chosen = () => true;
let engine = null;
let last = null; // what the model said of the last picture
let earlier = []; // {name, output}: pictures to compare with, where there are no labels
let latencies = [];
let camera = null;

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

async function readLabels() {
  if (!manifest.labels) return null;
  const read = (name) => readFile(name, manifest.labels.files[name], (done, total) => showStage(`Downloading ${name}`, done, total));
  const embeddings = await read(EMBEDDINGS_FILE);
  const names = await read(LABELS_FILE);
  const parsed = parseLabels(embeddings, names);
  const problem = mismatch(manifest, parsed.dim);
  if (problem) throw new Error(`The labels can’t be compared with this model: ${problem}. Make them again with “pecore labels”.`);
  return { ...parsed, scale: manifest.labels.logit_scale };
}

async function openModel() {
  const file = files[$('weights').value];
  const read = () => readFile(file.name, file, (done, total) => showStage(`Downloading ${file.name}`, done, total));
  engine?.close();
  engine = null;
  [latencies, last] = [[], null];
  for (const id of ['wish', 'weights']) $(id).disabled = true;
  try {
    showStage(`Loading ${file.name}`);
    await read(); // progress first, then the compilation's stage
    showStage('Compiling the model');
    engine = await open($('wish').value, read, manifest);
    $('accelerator').textContent = nameOf(engine);
    $('reason').textContent = `${engine.accelerator === 'webgpu' ? 'On the GPU' : 'On the CPU'}: ${engine.reason}.`;
  } finally {
    for (const id of ['wish', 'weights']) $(id).disabled = false;
  }
}

/** @param {Blob|ImageBitmap} picture */
async function classify(picture, name) {
  const found = await engine.embed(picture);
  latencies.push(found.ms);
  last = { name, ...found };
  showAnswer();
  if (!labels) earlier = [{ name, output: found.output }, ...earlier].slice(0, TOP);
}

function showAnswer() {
  if (!last) return;
  const best = labels
    ? rank(last.output, labels, TOP, chosen)
    : earlier.map(({ name, output }) => ({ label: name, cosine: output.reduce((sum, value, i) => sum + value * last.output[i], 0) }));
  $('hint').hidden = best.length > 0;
  $('hint').textContent = labels ? 'No label is ticked.' : 'The next pictures will be compared with this one.';
  $('results').replaceChildren(...best.map(resultRow));
  $('latency').textContent = `${milliseconds(last.ms)}, ${milliseconds(median(latencies))}`;
  $('preparing').textContent = milliseconds(last.preparing);
}

function resultRow({ label, cosine, probability }) {
  const bar = make('span', { className: 'bar', ariaHidden: 'true' });
  bar.style.width = `${100 * Math.max(probability ?? cosine, 0)}%`;
  const value = probability === undefined ? cosine.toFixed(4) : `${(100 * probability).toFixed(1)} %`;
  const row = make('li', { title: `cosine ${cosine.toFixed(4)}` }, bar, make('span', { textContent: label }), make('span', { className: 'value', textContent: value }));
  Object.assign(row.dataset, { cosine, probability });
  return row;
}

async function takePicture(file) {
  if (!engine) return;
  clearError();
  stopCamera();
  const busy = setTimeout(() => showStage('Looking at the picture'), 300);
  try {
    await classify(file, file.name || 'pasted picture');
    URL.revokeObjectURL($('preview').src);
    $('preview').src = URL.createObjectURL(file);
    $('preview').hidden = false;
    $('empty').hidden = true;
  } catch (error) {
    showError(error);
  } finally {
    clearTimeout(busy);
    endStage();
  }
}

async function toggleCamera() {
  if (camera) return stopCamera();
  clearError();
  try {
    camera = await startCamera($('video'), async (frame) => classify(frame, `camera, ${new Date().toLocaleTimeString()}`), (error) => {
      stopCamera();
      showError(error);
    });
  } catch (error) {
    return showError(error);
  }
  showCamera(true);
}

function stopCamera() {
  camera?.stop();
  camera = null;
  showCamera(false);
}

function showCamera(on) {
  $('camera').ariaPressed = String(on);
  $('camera').textContent = on ? 'Stop the camera' : 'Use the camera';
  $('video').hidden = !on;
  $('preview').hidden = on || !$('preview').src;
  $('empty').hidden = on || Boolean($('preview').src);
}

async function changeModel() {
  clearError();
  stopCamera();
  $('results').replaceChildren();
  try {
    await openModel();
  } catch (error) {
    showError(error);
  }
  endStage();
}

function listen() {
  $('pick').addEventListener('click', () => $('file').click());
  $('file').addEventListener('change', () => {
    if ($('file').files.length) takePicture($('file').files[0]);
    $('file').value = '';
  });
  $('camera').addEventListener('click', toggleCamera);
  for (const id of ['wish', 'weights']) $(id).addEventListener('change', changeModel);
  addEventListener('dragover', (event) => {
    event.preventDefault();
    $('drop').classList.add('over');
  });
  addEventListener('dragleave', () => $('drop').classList.remove('over'));
  addEventListener('drop', (event) => {
    event.preventDefault();
    $('drop').classList.remove('over');
    if (event.dataTransfer.files.length) takePicture(event.dataTransfer.files[0]);
  });
  addEventListener('paste', (event) => {
    if (event.clipboardData.files.length) takePicture(event.clipboardData.files[0]);
  });
}

function showBundle() {
  const { size, image_size: side, embedding_dim: dim } = manifest.variant;
  $('model').textContent = `${manifest.name}: ${size}, ${side} × ${side} pixels → ${dim} numbers`;
  $('synthetic').hidden = !manifest.weights.synthetic;
  for (const [name, file] of Object.entries(manifest.files)) files[file.precision] = { name, ...file };
  const ordered = new Set([...PREFERRED, ...Object.keys(files)]);
  for (const precision of [...ordered].filter((p) => files[p])) {
    $('weights').append(make('option', { value: precision, textContent: `${precision}, ${megabytes(files[precision].bytes)} MB` }));
  }
}

async function startClassify() {
  const [images] = manifest.input.shape;
  if (images !== 1) throw new Error(`This bundle takes ${images} pictures at once, this page one: convert without “--batch”. The self-test runs it.`);
  readResize(manifest.preprocessing); // or say that it is not known, before the model is downloaded
  if (manifest.output.shape.length !== 2) {
    throw new Error(`This bundle gives features of ${manifest.output.shape.join(' × ')} numbers, not one embedding of a picture: the self-test runs it.`);
  }
  labels = await readLabels();
  if (labels) {
    showPicker(labels.names, (ticked) => {
      chosen = ticked;
      showAnswer();
    });
  } else {
    $('answer-title').textContent = 'Likeness to earlier pictures';
    $('hint').textContent = 'This bundle has no labels (“pecore labels” makes them), so pictures are compared with one another.';
  }
  await openModel();
  await forgetOthers(manifest);
  $('classify').hidden = false;
  listen();
  endStage();
}

async function start() {
  const selftest = new URLSearchParams(location.search).has('selftest');
  $(selftest ? 'to-selftest' : 'to-classify').setAttribute('aria-current', 'page');
  await keepOffline();
  manifest = await readManifest();
  showBundle();
  if (selftest) await (await import('./selftest.js')).start(manifest);
  else await startClassify();
}

start().catch((error) => {
  endStage();
  showError(error);
});
