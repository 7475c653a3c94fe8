import assert from 'node:assert/strict';
import { test } from 'node:test';

import { axisWeights, dropAlpha, normalise, readResize, resize } from '../site/preprocess.js';
import { bytes, floats, sha256, vectors } from './vectors.js';

const TOLERANCE = 1e-6; // float32 of numbers up to 1

const farthest = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), a.length === b.length ? 0 : Infinity);

test('weights of an axis are exact', () => {
  for (const { in: from, out: to, filter, first, weights } of vectors.resize.weights) {
    const found = axisWeights(from, to, filter);
    assert.deepEqual(found.map((w) => w.first), first);
    assert.deepEqual(found.map((w) => [...w.weights]), weights);
  }
});

for (const image of vectors.images) {
  test(`${image.name}: pixels are exact, the input within ${TOLERANCE}`, () => {
    const rgb = bytes(image.rgb);
    for (const [size, expected] of Object.entries(image.resized_sha256)) {
      assert.equal(sha256(resize(rgb, image.width, image.height, Number(size))), expected);
    }
    for (const { file, size, layout, range } of image.tensors) {
      const input = normalise(resize(rgb, image.width, image.height, size), size, layout, range);
      assert.ok(farthest(input, floats(file)) <= TOLERANCE, file);
    }
  });
}

for (const { preprocessing, resized_sha256: wanted } of vectors.resizes) {
  test(`${Object.values(preprocessing).join(' ')}: pixels are exact`, () => {
    for (const { name, rgb, width, height } of vectors.images) {
      for (const [size, expected] of Object.entries(wanted[name])) {
        assert.equal(sha256(resize(bytes(rgb), width, height, Number(size), readResize(preprocessing))), expected, `${name} to ${size}`);
      }
    }
  });
}

test('a resize of the future is refused, and of a manifest that has none it is the squash', () => {
  assert.deepEqual([undefined, {}, { resize: 'squash', filter: 'bilinear, antialiased' }].map((p) => readResize(p).mode), ['squash', 'squash', 'squash']);
  for (const given of [{ resize: 'letterbox' }, { resize: 'crop', filter: 'lanczos' }, { resize: 'squash', filter: 'bicubic, antialiased' }]) {
    assert.throws(() => readResize(given), new RegExp(`resized by ${given.resize} .*does not know`));
  }
});

test('a channel in the wrong place is noticed', () => {
  const { width, height, rgb, tensors } = vectors.images.find((image) => image.name === 'wide');
  const swapped = bytes(rgb).map((_, i, all) => all[i - (i % 3) + [2, 1, 0][i % 3]]);
  const { file, size, layout, range } = tensors[0];
  assert.ok(farthest(normalise(resize(swapped, width, height, size), size, layout, range), floats(file)) > 0.1);
});

for (const { width, height, size, resized_sha256: expected } of vectors.generated.cases) {
  test(`${width} x ${height} to ${size} is exact`, () => {
    const rgb = new Uint8Array(width * height * 3);
    let at = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let channel = 0; channel < 3; channel++) rgb[at++] = 37 * x + 61 * y + 97 * channel + Math.floor((x * y) / 7);
      }
    }
    assert.equal(sha256(resize(rgb, width, height, size)), expected);
  });
}

test('alpha goes', () => assert.deepEqual([...dropAlpha([1, 2, 3, 255, 4, 5, 6, 255])], [1, 2, 3, 4, 5, 6]));

test('a range or layout of the future is refused', () => {
  assert.throws(() => normalise(new Uint8Array(3), 1, 'nchw', '0..65535'), /0\.\.65535/);
  assert.throws(() => normalise(new Uint8Array(3), 1, 'chwn', '0..1'), /chwn/);
});
