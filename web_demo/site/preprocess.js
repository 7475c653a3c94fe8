// From a picture's pixels to the model's input, as docs/preprocessing.md has it: Pillow's antialiased filters, to the bit.
// A canvas's own resize reads other pixels and is several grey levels away.

const PRECISION = 22; // bits of a weight
const RANGES = { '-1..1': (v) => Math.fround(Math.fround(Math.fround(v / 255) - 0.5) / 0.5), '0..1': (v) => v / 255, '0..255': (v) => v };

/** Filters: how far one reaches, and what it weighs at a distance. */
const FILTERS = {
  bilinear: { radius: 1, weigh: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { radius: 2, weigh: (x) => cubic(Math.abs(x)) },
};

const cubic = (x) => {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
};

const SQUASH = { mode: 'squash', filter: 'bilinear', share: 1 };

/**
 * How a manifest wants pictures to become the model's square.
 * @returns {{mode: 'squash'|'crop', filter: string, share: number}} `share` of a side is kept
 */
export function readResize({ resize = 'squash', filter: given = 'bilinear', crop_pct: share = 1 } = {}) {
  const mode = resize === 'crop' ? 'crop' : 'squash';
  const filter = given.split(',')[0];
  const parts = [mode, share === 1 ? '' : 'crop', filter === 'bilinear' ? '' : filter];
  const name = mode === 'crop' ? mode : parts.filter(Boolean).join('-');
  if (!FILTERS[filter] || name !== resize) {
    throw new Error(`This bundle wants its pictures resized by ${resize} (${given}), which this page does not know: the self-test runs it.`);
  }
  return { mode, filter, share };
}

/** Weights of one axis from `from` pixels to `to`: for each pixel of the result, `first` and integer `weights`. */
export function axisWeights(from, to, filter = 'bilinear') {
  const { radius, weigh } = FILTERS[filter];
  const scale = from / to;
  const support = radius * Math.max(scale, 1);
  const steepness = 1 / Math.max(scale, 1);
  return Array.from({ length: to }, (_, x) => {
    const centre = (x + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = [];
    let sum = 0;
    for (let i = first; i < last; i++) {
      raw.push(weigh((i - centre + 0.5) * steepness));
      sum += raw.at(-1);
    }
    return { first, weights: Int32Array.from(raw, (w) => fixed(w / sum)) };
  });
}

const fixed = (weight) => Math.trunc(weight * 2 ** PRECISION + (weight < 0 ? -0.5 : 0.5));

/** Width and height to which a picture is resized before the square is cut from its middle. */
function target(width, height, size, { mode, share }) {
  const scaled = Math.floor(size / share);
  if (mode === 'squash') return [scaled, scaled];
  return width <= height ? [scaled, Math.trunc((scaled * height) / width)] : [Math.trunc((scaled * width) / height), scaled];
}

/** Where the middle `size` of `length` begin; a half goes to the even number. */
const middle = (length, size) => ((length - size) % 2 ? 2 * Math.round((length - size) / 4) : (length - size) / 2);

/**
 * RGB pixels to the model's square.
 * @param {Uint8Array} rgb rows from the top, 3 bytes a pixel
 * @param how from `readResize`
 * @returns {Uint8Array} size * size * 3
 */
export function resize(rgb, width, height, size, how = SQUASH) {
  const [across, down] = target(width, height, size, how);
  const axis = (from, to) => axisWeights(from, to, how.filter).slice(middle(to, size), middle(to, size) + size);
  const rows = (image) => resizeRows(image, axis(width, across));
  const columns = (image) => resizeColumns(image, axis(height, down));
  const columnsFirst = height > down && height - down > 2 * (width - across);
  const steps = columnsFirst ? [columns, rows] : [rows, columns];
  return steps.reduce((image, step) => step(image), { rgb, width, height }).rgb;
}

function resizeRows({ rgb, width, height }, axis) {
  const out = new Uint8Array(axis.length * height * 3);
  axis.forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) convolve(rgb, (y * width + first) * 3, 3, weights, out, (y * axis.length + x) * 3);
  });
  return { rgb: out, width: axis.length, height };
}

function resizeColumns({ rgb, width }, axis) {
  const out = new Uint8Array(width * axis.length * 3);
  axis.forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) convolve(rgb, (first * width + x) * 3, width * 3, weights, out, (y * width + x) * 3);
  });
  return { rgb: out, width, height: axis.length };
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
  out[to] = byte(red >> PRECISION);
  out[to + 1] = byte(green >> PRECISION);
  out[to + 2] = byte(blue >> PRECISION);
}

const byte = (value) => Math.min(Math.max(value, 0), 255); // a cubic undershoots, too

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
