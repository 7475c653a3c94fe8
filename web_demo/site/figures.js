// How far an output is from its reference: the figures of validate/parity.py, and their thresholds.

const AT_LEAST = new Set(['cosine', 'correlation']);

/**
 * The worst figures of outputs against references, pairwise; all NaN where an output is not finite.
 * @param {number} images in each output, of which each is judged by itself
 * @returns {{cosine: number, correlation: number, norm_error: number, max_abs_diff: number, relative_diff: number}}
 */
export function compare(references, outputs, images = 1) {
  const [expected, found] = [references, outputs].map((arrays) => arrays.flatMap((array) => apart(array, images)));
  const all = expected.map((reference, i) => figures(reference, found[i]));
  const column = (name, pick) => pick(...all.map((f) => f[name]));
  return {
    cosine: column('cosine', Math.min),
    correlation: column('correlation', Math.min),
    norm_error: column('norm_error', Math.max),
    max_abs_diff: column('max_abs_diff', Math.max),
    relative_diff: column('relative_diff', Math.max),
  };
}

/** An array's first axis, of `length`, taken apart. */
export function apart(array, length) {
  const size = array.length / length;
  return Array.from({ length }, (_, i) => array.slice(i * size, (i + 1) * size));
}

/** What misses its limit, NaN and what is not known here included, a sentence's part each. */
export function beyond(found, limits) {
  return Object.entries(limits)
    .filter(([name, limit]) => !(AT_LEAST.has(name) ? found[name] >= limit : found[name] <= limit))
    .map(([name, limit]) => name in found ? `${name} ${Number(found[name].toPrecision(7))} (must be ${AT_LEAST.has(name) ? '≥' : '≤'} ${limit})` : `${name} is not known here: take the page of this version of pecore`);
}

function figures(reference, output) {
  if (reference.length !== output.length) throw new Error(`an output of ${output.length} numbers, where the reference has ${reference.length}`);
  const r = Float64Array.from(reference);
  const a = Float64Array.from(output);
  if (!a.every(Number.isFinite)) return { cosine: NaN, correlation: NaN, norm_error: NaN, max_abs_diff: NaN, relative_diff: NaN };
  const largest = r.reduce((most, value, i) => Math.max(most, Math.abs(a[i] - value)), 0);
  const scale = r.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return {
    cosine: cosine(r, a),
    correlation: cosine(centred(r), centred(a)),
    norm_error: Math.abs(Math.sqrt(dot(a, a) / dot(r, r)) - 1),
    max_abs_diff: largest,
    relative_diff: scale ? largest / scale : NaN,
  };
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const cosine = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
const centred = (a) => {
  const mean = a.reduce((sum, value) => sum + value, 0) / a.length;
  return a.map((value) => value - mean);
};
