// A bundle's labels and their embeddings (docs/artefacts.md), checked before anything is classified with them.

export const EMBEDDINGS_FILE = 'text_embeddings.bin';
export const LABELS_FILE = 'labels.txt';
const HEADER_BYTES = 8;
const NORM_ERROR = 1e-4; // float32 rows are within 1e-6 of norm 1

/**
 * @param {ArrayBuffer} embeddings little-endian int32 n, int32 dim, n * dim float32
 * @param {ArrayBuffer} names UTF-8, one label a line
 * @returns {{names: string[], dim: number, embeddings: Float32Array}}
 */
export function parseLabels(embeddings, names) {
  const [n, dim] = embeddings.byteLength >= HEADER_BYTES ? new Int32Array(embeddings, 0, 2) : [0, 0];
  if (n < 1 || dim < 1 || embeddings.byteLength !== HEADER_BYTES + 4 * n * dim) {
    throw damaged(`${EMBEDDINGS_FILE} has ${embeddings.byteLength} bytes and says ${n} rows of ${dim}`);
  }
  const rows = new Float32Array(embeddings, HEADER_BYTES);
  for (let row = 0; row < n; row++) {
    const norm = Math.hypot(...rows.subarray(row * dim, (row + 1) * dim));
    if (!(Math.abs(norm - 1) <= NORM_ERROR)) throw damaged(`row ${row + 1} of ${EMBEDDINGS_FILE} is not L2-normalised`);
  }
  const lines = new TextDecoder('utf-8', { fatal: true }).decode(names).replace(/\n$/, '').split('\n');
  if (lines.length !== n) throw damaged(`there are ${lines.length} labels for ${n} embeddings`);
  return { names: lines, dim, embeddings: rows };
}

/**
 * Why what a text tower made and a vision tower can't be compared, or null where they can: the table in docs/artefacts.md.
 * @param {object} text origin of the text tower's weights: `weights` of the manifest's labels or text
 * @param {number} dim of its embeddings
 */
export function mismatch(text, manifest, dim) {
  const vision = manifest.weights;
  const size = manifest.output.shape.at(-1);
  if (dim !== size) return `they have ${dim} numbers, the images' embeddings ${size}`;
  const bothFromHub = text.kind === 'hub' && vision.kind === 'hub';
  const same =
    text.synthetic === vision.synthetic &&
    ((text.fingerprint && text.fingerprint === vision.fingerprint) || (text.synthetic ? text.seed === vision.seed : bothFromHub));
  return same ? null : `they are from ${text.source}, the vision tower from ${vision.source}`;
}

function damaged(why) {
  return new Error(`The labels are damaged: ${why}. Make them again with “pecore labels”.`);
}
