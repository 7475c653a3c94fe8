// The vision tower that a screen runs: which file, on what.

import { forgetOthers, readFile } from './bundle.js';
import { open } from './engine.js';
import { $, make, megabytes, nameOf, showStage } from './page.js';
import { readResize } from './preprocess.js';
import { inOrder, pick } from './weights.js';

/** Refuse a bundle that gives something else than one embedding for one picture. */
export function requireEmbedding(manifest) {
  const [images] = manifest.input.shape;
  if (images !== 1) throw new Error(`This bundle takes ${images} pictures at once, this page one: convert without “--batch”. The self-test runs it.`);
  readResize(manifest.preprocessing); // or say that it is not known, before the model is downloaded
  if (manifest.output.shape.length !== 2) {
    throw new Error(`This bundle gives features of ${manifest.output.shape.join(' × ')} numbers, not one embedding of a picture: the self-test runs it.`);
  }
}

/** Offer a bundle's precisions, and “Automatic” before them. */
export function offerWeights(manifest) {
  const offered = inOrder(manifest.files, 'webgpu').map(({ precision, bytes }) => [precision, `${precision}, ${megabytes(bytes)} MB`]);
  for (const [value, textContent] of [['auto', 'Automatic'], ...offered]) $('weights').append(make('option', { value, textContent }));
}

/**
 * Open the chosen file on the chosen accelerator; `engine`, the one before it, is closed.
 * @param {Set<string>} [inUse] as `pick` takes it
 * @returns {Promise<object>} the engine; its `file` is the manifest's entry of what runs
 */
export async function openModel(manifest, engine, inUse) {
  const read = async ({ file }) => {
    showStage(`Loading ${file.name}`);
    const bytes = await readFile(file.name, file, (done, total) => showStage(`Downloading ${file.name}`, done, total));
    showStage('Compiling the model');
    return bytes;
  };
  engine?.close();
  for (const id of ['wish', 'weights']) $(id).disabled = true;
  try {
    showStage('Looking for a GPU');
    const pickFor = (accelerator) => pick(manifest.files, $('weights').value, accelerator, inUse);
    const opened = await open($('wish').value, pickFor, read, manifest);
    const { file, reason } = opened.picked;
    $('accelerator').textContent = nameOf(opened);
    $('reason').textContent = `${opened.accelerator === 'webgpu' ? 'On the GPU' : 'On the CPU'}: ${opened.reason}. ${reason}.`;
    await forgetOthers(manifest);
    return Object.assign(opened, { file });
  } finally {
    for (const id of ['wish', 'weights']) $(id).disabled = false;
  }
}
