// ?: a picture, and what the bundle's labels, or a person's own, say about it.

import { readFile } from './bundle.js';
import { startCamera } from './camera.js';
import { EMBEDDINGS_FILE, LABELS_FILE, mismatch, parseLabels } from './labels.js';
import { openModel } from './model.js';
import { ownLabels } from './ownlabels.js';
import { $, clearError, endStage, make, median, milliseconds, showError, showStage } from './page.js';
import { showPicker } from './picker.js';
import { rank } from './scores.js';
import { noWords, TextTower } from './texttower.js';

const TOP = 5;

let manifest;
let labels = null; // {names, embeddings, scale}, or null where there are none
let chosen = () => true;
let engine = null;
let last = null; // what the model said of the last picture
let earlier = []; // {name, output}: pictures to compare with, where there are no labels
let latencies = [];
let camera = null;

async function readLabels() {
  if (!manifest.labels) return null;
  const read = (name) => readFile(name, manifest.labels.files[name], (done, total) => showStage(`Downloading ${name}`, done, total));
  const embeddings = await read(EMBEDDINGS_FILE);
  const names = await read(LABELS_FILE);
  const parsed = parseLabels(embeddings, names);
  const problem = mismatch(manifest.labels.weights, manifest, parsed.dim);
  if (problem) throw new Error(`The labels can’t be compared with this model: ${problem}. Make them again with “pecore labels”.`);
  return { ...parsed, scale: manifest.labels.logit_scale };
}

async function startModel() {
  [latencies, last] = [[], null];
  engine = await openModel(manifest, engine);
}

const own = () => $('own').checked;

/** Whose labels: the bundle's, where it has some, or those that a person types, where it has a text tower. */
function offerLabels(bundled) {
  const problem = noWords(manifest);
  const take = (found) => {
    labels = found;
    showAnswer();
  };
  if (bundled) {
    showPicker(bundled.names, (ticked) => {
      chosen = ticked;
      showAnswer();
    });
  }
  if (!bundled && problem) {
    $('answer-title').textContent = 'Likeness to earlier pictures';
    $('hint').textContent = `This bundle has no labels (“pecore labels” makes them), so pictures are compared with one another. ${problem}`;
    return;
  }
  $('labels').hidden = false;
  $('bundled').disabled = !bundled;
  $('own').disabled = Boolean(problem);
  $('no-words').textContent = problem ?? '';
  $('no-words').hidden = !problem;
  const tower = problem ? null : new TextTower(manifest);
  if (tower) $('own-size').textContent = `The text tower that reads them is downloaded once: ${tower.size}.`;
  const tell = tower && ownLabels(manifest, tower, (found) => own() && take(found), (error) => own() && showError(error));
  let ticked = chosen;
  const choose = () => {
    clearError();
    $('bundle-labels').hidden = own();
    $('own-labels').hidden = !own();
    if (own()) [ticked, chosen] = [chosen, () => true];
    else chosen = ticked;
    take(own() ? null : bundled);
    if (own()) tell();
  };
  $('bundled').addEventListener('change', choose);
  $('own').addEventListener('change', choose);
  $(bundled ? 'bundled' : 'own').checked = true;
  choose();
}

/** @param {Blob|ImageBitmap} picture */
async function classify(picture, name) {
  const found = await engine.embed(picture);
  latencies.push(found.ms);
  last = { name, ...found };
  showAnswer();
  if (!labels && !own()) earlier = [{ name, output: found.output }, ...earlier].slice(0, TOP);
}

function showAnswer() {
  if (!last) return;
  const best = labels
    ? rank(last.output, labels, TOP, chosen)
    : own() ? [] : earlier.map(({ name, output }) => ({ label: name, cosine: output.reduce((sum, value, i) => sum + value * last.output[i], 0) }));
  $('hint').hidden = best.length > 0;
  $('hint').textContent = labels ? 'No label is ticked.' : own() ? 'Add a label, and see how well it fits.' : 'The next pictures will be compared with this one.';
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
    await startModel();
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

/** Show the screen. */
export async function start(given) {
  manifest = given;
  const bundled = await readLabels();
  await startModel();
  offerLabels(bundled);
  $('classify').hidden = false;
  listen();
  endStage();
}
