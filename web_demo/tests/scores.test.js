import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseLabels } from '../site/labels.js';
import { rank, softmax } from '../site/scores.js';
import { bytes, floats, vectors } from './vectors.js';

const { scores } = vectors;
const labels = { ...parseLabels(bytes(scores.text_embeddings).buffer, bytes(scores.labels).buffer), scale: scores.logit_scale };
const embeddings = floats(scores.embeddings);

scores.cases.forEach(({ image, predictions }, i) => {
  test(`${image}: the best ${scores.top_k}`, () => {
    const found = rank(embeddings.subarray(i * scores.dim, (i + 1) * scores.dim), labels, scores.top_k);
    assert.deepEqual(found.map((p) => [p.label, p.index]), predictions.map((p) => [p.label, p.index]));
    found.forEach((p, j) => {
      assert.ok(Math.abs(p.cosine - predictions[j].cosine) <= scores.tolerance.cosine);
      assert.ok(Math.abs(p.probability - predictions[j].probability) <= scores.tolerance.probability);
    });
  });
});

test('labels that are not chosen take no part', () => {
  const image = embeddings.subarray(0, scores.dim);
  const [best, second, ...others] = rank(image, labels, Infinity);
  const found = rank(image, labels, Infinity, (index) => index !== best.index);
  assert.deepEqual(found.map((p) => p.index), [second, ...others].map((p) => p.index));
  assert.ok(Math.abs(found.reduce((sum, p) => sum + p.probability, 0) - 1) < 1e-12);
  assert.deepEqual(rank(image, labels, 5, () => false), []);
});

test('softmax of large values is finite', () => assert.deepEqual(softmax([1e4, 1e4]), [0.5, 0.5]));
