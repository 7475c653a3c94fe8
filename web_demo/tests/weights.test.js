import assert from 'node:assert/strict';
import { test } from 'node:test';

import { inOrder, pick } from '../site/weights.js';

const files = Object.fromEntries(['fp4', 'int8', 'fp32', 'fp16'].map((precision) => [`x_${precision}.tflite`, { precision, bytes: 1, sha256: `sha of ${precision}` }]));
const only = (...precisions) => Object.fromEntries(Object.entries(files).filter(([, { precision }]) => precisions.includes(precision)));

test('a precision that the page does not know is the last', () => {
  for (const accelerator of ['webgpu', 'wasm']) {
    const found = inOrder(files, accelerator).map(({ precision }) => precision);
    assert.deepEqual(found.toSorted(), ['fp16', 'fp32', 'fp4', 'int8']);
    assert.equal(found.at(-1), 'fp4');
  }
});

test('“Automatic” takes the fastest for the accelerator that the bundle has, and says why', () => {
  const { file, reason } = pick(files, 'auto', 'webgpu');
  assert.deepEqual(file, { name: 'x_fp16.tflite', ...files['x_fp16.tflite'] });
  assert.equal(reason, 'fp16 weights, the fastest on WebGPU in this bundle');
  assert.equal(pick(only('int8', 'fp32'), 'auto', 'webgpu').file.precision, 'fp32');
  assert.equal(pick(files, 'auto', 'wasm').reason, 'int8 weights, the fastest on WASM in this bundle');
  assert.equal(pick(only('fp32', 'fp16'), 'auto', 'wasm').file.precision, 'fp16');
  assert.equal(pick(only('int8'), 'auto', 'wasm').reason, 'int8 weights, the only ones in this bundle');
});

test('a precision that is chosen runs on either', () => {
  for (const accelerator of ['webgpu', 'wasm']) assert.equal(pick(files, 'int8', accelerator).reason, 'int8 weights, as chosen');
});

test('“Automatic” stays with the file that a folder was read with', () => {
  const { file, reason } = pick(files, 'auto', 'wasm', new Set(['sha of fp16', 'sha of another bundle']));
  assert.equal(file.precision, 'fp16');
  assert.equal(reason, 'fp16 weights, with which this folder was read before');
  assert.equal(pick(files, 'auto', 'wasm', new Set(['sha of int8', 'sha of fp16'])).file.precision, 'int8');
  assert.equal(pick(files, 'fp32', 'wasm', new Set(['sha of int8'])).file.precision, 'fp32');
});
