// Which of a bundle's files runs, and why: said on the page.

// The fastest first, and of two that are as fast the smaller download; any other precision comes after these.
const FASTEST = {
  webgpu: ['fp16', 'fp32', 'int8'],
  wasm: ['int8', 'fp16', 'fp32'], // docs/web.md has the figures
};
const NAMES = { webgpu: 'WebGPU', wasm: 'WASM' };

/** @returns {{name: string, precision: string, bytes: number, sha256: string}[]} a manifest's files, the fastest first */
export function inOrder(files, accelerator) {
  const listed = Object.entries(files).map(([name, entry]) => ({ name, ...entry }));
  const place = ({ precision }) => (FASTEST[accelerator].indexOf(precision) + 1 || Infinity);
  return listed.sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
}

/**
 * @param {object} files of a manifest
 * @param {string} wish a precision, or `auto`
 * @param {'webgpu'|'wasm'} accelerator
 * @param {Set<string>} inUse sha256 of files with whose embeddings others will be compared: a faster file would be of no use
 * @returns {{file: {name: string, precision: string, bytes: number, sha256: string}, reason: string}}
 */
export function pick(files, wish, accelerator, inUse = new Set()) {
  const ordered = inOrder(files, accelerator);
  const found = (file, reason) => ({ file, reason: `${file.precision} weights, ${reason}` });
  if (wish !== 'auto') return found(ordered.find(({ precision }) => precision === wish), 'as chosen');
  if (ordered.length === 1) return found(ordered[0], 'the only ones in this bundle');
  const same = ordered.find(({ sha256 }) => inUse.has(sha256));
  if (same && same !== ordered[0]) return found(same, 'with which this folder was read before');
  return found(ordered[0], `the fastest on ${NAMES[accelerator]} in this bundle`);
}
