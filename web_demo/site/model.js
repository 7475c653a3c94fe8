// The vision tower that a screen runs: which file, on what.

import { forgetOthers, readFile } from './bundle.js';
import { open } from './engine.js';
import { $, make, megabytes, nameOf, showStage } from './page.js';
import { readResize } from './preprocess.js';

const PREFERRED = ['fp16', 'fp32', 'int8']; // any other precision comes after these

/** Refuse a bundle that gives something else than one embedding for one picture. */
export function requireEmbedding(manifest) {
  const [images] = manifest.input.shape;
  if (images !== 1) throw new Error(`This bundle takes ${images} pictures at once, this page one: convert without “--batch”. The self-test runs it.`);
  readResize(manifest.preprocessing); // or say that it is not known, before the model is downloaded
  if (manifest.output.shape.length !== 2) {
    throw new Error(`This bundle gives features of ${manifest.output.shape.join(' × ')} numbers, not one embedding of a picture: the self-test runs it.`);
  }
}

/** Offer a bundle's precisions. */
export function offerWeights(manifest) {
  const files = Object.values(manifest.files);
  const ordered = new Set([...PREFERRED, ...files.map(({ precision }) => precision)]);
  for (const wanted of ordered) {
    const file = files.find(({ precision }) => precision === wanted);
    if (file) $('weights').append(make('option', { value: wanted, textContent: `${wanted}, ${megabytes(file.bytes)} MB` }));
  }
}

/** Name and manifest entry of the .tflite that is chosen. */
export function chosenFile(manifest) {
  const [name, entry] = Object.entries(manifest.files).find(([, { precision }]) => precision === $('weights').value);
  return { name, ...entry };
}

/** Open the chosen file on the chosen accelerator; `engine`, the one before it, is closed. */
export async function openModel(manifest, engine) {
  const file = chosenFile(manifest);
  const read = () => readFile(file.name, file, (done, total) => showStage(`Downloading ${file.name}`, done, total));
  engine?.close();
  for (const id of ['wish', 'weights']) $(id).disabled = true;
  try {
    showStage(`Loading ${file.name}`);
    await read(); // progress first, then the compilation's stage
    showStage('Compiling the model');
    const opened = await open($('wish').value, read, manifest);
    $('accelerator').textContent = nameOf(opened);
    $('reason').textContent = `${opened.accelerator === 'webgpu' ? 'On the GPU' : 'On the CPU'}: ${opened.reason}.`;
    await forgetOthers(manifest);
    return opened;
  } finally {
    for (const id of ['wish', 'weights']) $(id).disabled = false;
  }
}
