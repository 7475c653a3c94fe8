// From an image's embedding to labels: docs/preprocessing.md, Scores.

/** Cosine of every row of `embeddings` [n, dim] with `image` [dim], all of norm 1. */
export function cosines(image, embeddings) {
  const dim = image.length;
  return Float64Array.from({ length: embeddings.length / dim }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < dim; i++) sum += image[i] * embeddings[row * dim + i];
    return sum;
  });
}

/** Softmax of `values`, the largest taken off first. */
export function softmax(values) {
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const raised = values.map((v) => Math.exp(v - largest));
  const sum = raised.reduce((a, b) => a + b, 0);
  return raised.map((v) => v / sum);
}

/**
 * The `top` labels, the best first, of equal ones the first; probabilities are over the labels that are `chosen`.
 * @param {Float32Array} image embedding, norm 1
 * @param {{names: string[], embeddings: Float32Array, scale: number}} labels
 * @param {(index: number) => boolean} chosen
 * @returns {{label: string, index: number, cosine: number, probability: number}[]}
 */
export function rank(image, labels, top, chosen = () => true) {
  const all = cosines(image, labels.embeddings);
  const taken = labels.names.map((_, index) => index).filter(chosen);
  const probabilities = softmax(taken.map((index) => labels.scale * all[index]));
  return taken
    .map((index, i) => ({ label: labels.names[index], index, cosine: all[index], probability: probabilities[i] }))
    .sort((a, b) => b.cosine - a.cosine || a.index - b.index)
    .slice(0, top);
}
