// From a picture's pixels to the model's input, as docs/preprocessing.md has it: Pillow's antialiased bilinear filter, to
// the bit. A canvas's own resize reads other pixels and is several grey levels away.

const PRECISION = 22; // bits of a weight
const RANGES = { '-1..1': (v) => Math.fround(Math.fround(Math.fround(v / 255) - 0.5) / 0.5), '0..1': (v) => v / 255, '0..255': (v) => v };

/** Weights of one axis from `from` pixels to `to`: for each pixel of the result, `first` and integer `weights`. */
export function axisWeights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const steepness = 1 / support;
  return Array.from({ length: to }, (_, x) => {
    const centre = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = [];
    let sum = 0;
    for (let i = first; i < last; i++) {
      raw.push(Math.max(1 - Math.abs((i - centre + 0.5) * steepness), 0));
      sum += raw.at(-1);
    }
    return { first, weights: Int32Array.from(raw, (w) => Math.trunc(0.5 + (w / sum) * 2 ** PRECISION)) };
  });
}

/**
 * Squash RGB pixels to a square.
 * @param {Uint8Array} rgb rows from the top, 3 bytes a pixel
 * @returns {Uint8Array} size * size * 3
 */
export function resize(rgb, width, height, size) {
  const rows = (image) => resizeRows(image, size);
  const columns = (image) => resizeColumns(image, size);
  const columnsFirst = height > size && height - size > 2 * (width - size);
  const steps = columnsFirst ? [columns, rows] : [rows, columns];
  return steps.reduce((image, step) => step(image), { rgb, width, height }).rgb;
}

function resizeRows({ rgb, width, height }, size) {
  if (width === size) return { rgb, width, height };
  const out = new Uint8Array(size * height * 3);
  axisWeights(width, size).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) convolve(rgb, (y * width + first) * 3, 3, weights, out, (y * size + x) * 3);
  });
  return { rgb: out, width: size, height };
}

function resizeColumns({ rgb, width, height }, size) {
  if (height === size) return { rgb, width, height };
  const out = new Uint8Array(width * size * 3);
  axisWeights(height, size).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) convolve(rgb, (first * width + x) * 3, width * 3, weights, out, (y * width + x) * 3);
  });
  return { rgb: out, width, height: size };
}

/** One pixel of the result at `to`: pixels from `from` on, `step` bytes apart, weighted, and rounded to 8 bits. */
function convolve(rgb, from, step, weights, out, to) {
  let red = 1 << (PRECISION - 1);
  let green = red;
  let blue = red;
  for (let i = 0, at = from; i < weights.length; i++, at += step) {
    red += rgb[at] * weights[i];
    green += rgb[at + 1] * weights[i];
    blue += rgb[at + 2] * weights[i];
  }
  out[to] = Math.min(red >> PRECISION, 255);
  out[to + 1] = Math.min(green >> PRECISION, 255);
  out[to + 2] = Math.min(blue >> PRECISION, 255);
}

/**
 * The model's input from square RGB pixels.
 * @param {'nchw'|'nhwc'} layout of the result
 * @param {'-1..1'|'0..1'|'0..255'} range that the graph takes
 * @returns {Float32Array} 3 * size * size
 */
export function normalise(rgb, size, layout, range) {
  if (!RANGES[range]) throw new Error(`the manifest has an input range that this page does not know: ${range}`);
  if (layout !== 'nchw' && layout !== 'nhwc') throw new Error(`the manifest has an input layout that this page does not know: ${layout}`);
  const values = Float32Array.from({ length: 256 }, (_, v) => RANGES[range](v));
  const pixels = size * size;
  const out = new Float32Array(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    for (let channel = 0; channel < 3; channel++) {
      out[layout === 'nchw' ? channel * pixels + i : i * 3 + channel] = values[rgb[i * 3 + channel]];
    }
  }
  return out;
}

/** RGB from a canvas's RGBA (opaque: it was drawn on white). */
export function dropAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}
