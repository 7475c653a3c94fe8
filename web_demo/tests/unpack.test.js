import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';

import { unpackHalves, widen } from '../site/unpack.js';
import { bin, bundle, root } from './browser/harness.js';

// A file's ops and constants as Python reads them, and its output for an image that does not change.
const SCRIPT = `
import json, sys
import numpy as np
from pecore.runtime import open_model
from pecore.validate.graph import read_graph
for path in sys.argv[1:]:
    graph, model = read_graph(path), open_model(path, threads=1)
    (name, spec), = model.inputs.items()
    (output,) = model.run({name: np.random.default_rng(0).uniform(-1, 1, spec.shape).astype(spec.dtype)}).values()
    print(json.dumps({"ops": [op.name for op in graph.ops], "output": output[0].tolist()}))
`;

function read(file) {
  const bytes = readFileSync(file);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
}

const tiny = (precision) => path.join(bundle('tiny'), `pe_core_tiny_384_${precision}.tflite`);

test('float16 constants become float32, their DEQUANTIZEs go, and the outputs stay', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'pecore-web-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const given = read(tiny('fp16'));
  const copy = given.slice();
  const made = unpackHalves(given);
  assert.deepEqual(new Uint8Array(given), new Uint8Array(copy));
  const file = path.join(folder, 'unpacked.tflite');
  writeFileSync(file, new Uint8Array(made));
  const [before, after] = execFileSync(path.join(bin, 'python'), ['-c', SCRIPT, tiny('fp16'), file], { cwd: root, encoding: 'utf8' }).trim().split('\n').map((line) => JSON.parse(line));
  assert.ok(before.ops.includes('DEQUANTIZE'));
  assert.deepEqual(after.ops, before.ops.filter((name) => name !== 'DEQUANTIZE'));
  const apart = Math.max(...before.output.map((value, i) => Math.abs(value - after.output[i])));
  assert.ok(apart < 1e-6, `${apart}`); // the same numbers; a runtime may take other kernels for weights that pass a DEQUANTIZE
  assert.equal(unpackHalves(made), made);
});

test('a file without float16 constants stays what it is', () => {
  const given = read(tiny('int8'));
  assert.equal(unpackHalves(given), given);
});

test('a float16 number becomes the same in float32', () => {
  const bits = [0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0xbc01, 0x3555, 0x7bff, 0xfc00, 0x7e00];
  const values = [0, -0, 2 ** -24, 1023 * 2 ** -24, 2 ** -14, 1, -(1 + 2 ** -10), 0x555 * 2 ** -12, 65504, -Infinity, NaN];
  const found = new Float32Array(bits.length);
  widen(Uint16Array.from(bits), found);
  assert.deepEqual([...found], values);
});
