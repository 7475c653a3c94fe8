// What the page reads: labels, .npz, and the figures that the self-test gives.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateRawSync } from 'node:zlib';

import { choose, probe } from '../site/accelerator.js';
import { apart, beyond, compare } from '../site/figures.js';
import { mismatch, parseLabels } from '../site/labels.js';
import { readNpz } from '../site/npz.js';

const utf8 = (text) => new TextEncoder().encode(text).buffer;

function embeddings(n, dim, rows) {
  const data = new ArrayBuffer(8 + 4 * rows.length);
  new Int32Array(data, 0, 2).set([n, dim]);
  new Float32Array(data, 8).set(rows);
  return data;
}

test('labels that do not hold are refused', () => {
  assert.deepEqual(parseLabels(embeddings(2, 2, [1, 0, 0, 1]), utf8('été\ncat\n')).names, ['été', 'cat']);
  assert.throws(() => parseLabels(new ArrayBuffer(3), utf8('cat\n')), /3 bytes/);
  assert.throws(() => parseLabels(embeddings(2, 2, [1, 0, 0]), utf8('a\nb\n')), /20 bytes and says 2 rows of 2/);
  assert.throws(() => parseLabels(embeddings(1, 2, [1, 1]), utf8('a\n')), /L2-normalised/);
  assert.throws(() => parseLabels(embeddings(1, 2, [NaN, 1]), utf8('a\n')), /L2-normalised/);
  assert.throws(() => parseLabels(embeddings(1, 2, [0, 1]), utf8('a\nb\n')), /2 labels for 1/);
});

test('labels of another checkpoint are refused', () => {
  const vision = { kind: 'timm', synthetic: false, source: 'mine', fingerprint: 'f' };
  const synthetic = { kind: 'synthetic', synthetic: true, source: 'seed 0', seed: 0, fingerprint: null };
  const said = (text, other, dim = 4) => mismatch(text, { weights: other, output: { shape: [1, 4] } }, dim);
  assert.equal(said({ ...vision, kind: 'meta' }, vision), null);
  assert.equal(said({ ...vision, kind: 'hub', fingerprint: 'g' }, { ...vision, kind: 'hub' }), null);
  assert.equal(said(synthetic, { ...synthetic, fingerprint: 'f' }), null);
  assert.match(said({ ...vision, fingerprint: 'g' }, vision), /from mine/);
  assert.match(said(synthetic, vision), /from seed 0/);
  assert.match(said(synthetic, { ...synthetic, seed: 1 }), /from seed 0/);
  assert.match(said(vision, vision, 3), /3 numbers, the images' embeddings 4/);
});

/** A zip as NumPy writes it: sizes in the directory, version 2.0 of .npy where `long`. */
function npz(files, { descr = '<f4', compress = true, long = false } = {}) {
  const locals = [];
  const directory = [];
  let at = 0;
  for (const [name, { shape, data }] of Object.entries(files)) {
    const header = Buffer.from(`{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(', ')},), }\n`);
    const start = Buffer.alloc(long ? 12 : 10);
    start.write('\x93NUMPY', 'latin1');
    start[6] = long ? 2 : 1;
    long ? start.writeUInt32LE(header.length, 8) : start.writeUInt16LE(header.length, 8);
    const raw = Buffer.concat([start, header, Buffer.from(Float32Array.from(data).buffer)]);
    const packed = compress ? deflateRawSync(raw) : raw;
    const file = Buffer.from(`${name}.npy`);
    const local = Buffer.alloc(30);
    local.writeUInt16LE(file.length, 26);
    const entry = Buffer.alloc(46);
    entry.writeUInt16LE(compress ? 8 : 0, 10);
    entry.writeUInt32LE(packed.length, 20);
    entry.writeUInt16LE(file.length, 28);
    entry.writeUInt32LE(at, 42);
    locals.push(local, file, packed);
    directory.push(entry, file);
    at += 30 + file.length + packed.length;
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(Object.keys(files).length, 10);
  end.writeUInt32LE(at, 16);
  const all = Buffer.concat([...locals, ...directory, end]);
  return all.buffer.slice(all.byteOffset, all.byteOffset + all.length);
}

test('an .npz is read', async () => {
  const files = { image: { shape: [1, 2], data: [1, 2] }, embedding: { shape: [3], data: [3, 4, 5] } };
  for (const form of [{}, { compress: false }, { long: true }]) {
    const { image, embedding } = await readNpz(npz(files, form));
    assert.deepEqual([image.shape, [...image.data]], [[1, 2], [1, 2]]);
    assert.deepEqual([embedding.shape, [...embedding.data]], [[3], [3, 4, 5]]);
  }
  await assert.rejects(readNpz(npz(files, { descr: '<f8' })), /image.npy in it is no little-endian float32/);
  await assert.rejects(readNpz(new ArrayBuffer(40)), /not a zip/);
});

test('figures are those of validate/parity.py', () => {
  // np: r, a = [.6, .8, 0], [.8, .6, .1]; validate.parity.compare([r], [a])
  const found = compare([[0.6, 0.8, 0]], [[0.8, 0.6, 0.1]]);
  const expected = { cosine: 0.9552357, correlation: 0.8660254, norm_error: 0.0049876, max_abs_diff: 0.2, relative_diff: 0.25 };
  for (const [name, value] of Object.entries(expected)) assert.ok(Math.abs(found[name] - value) < 1e-6, `${name} ${found[name]}`);
  const worst = compare([[1, 0], [1, 0]], [[1, 0], [0, 1]]);
  assert.deepEqual([worst.cosine, worst.max_abs_diff], [0, 1]);
  assert.throws(() => compare([[1, 0]], [[1]]), /1 numbers/);
  assert.deepEqual(new Set(Object.values(compare([[1, 2], [1, 2]], [[1, 2], [Infinity, 2]]))), new Set([NaN]));
  assert.deepEqual([compare([[0, 0]], [[1, 0]]).relative_diff, compare([[0, 0]], [[1, 0]]).max_abs_diff], [NaN, 1]);
});

test('each image of a batch is judged by itself', () => {
  // np: r = [[.6, .8], [30, 40]], a = [[.6, .9], [30, 40]]; validate.parity.compare(list(r), list(a))
  assert.deepEqual(apart([1, 2, 3, 4], 2), [[1, 2], [3, 4]]);
  const found = compare([[0.6, 0.8, 30, 40]], [[0.6, 0.9, 30, 40]], 2);
  const expected = { cosine: 0.9984604, norm_error: 0.0816654, max_abs_diff: 0.1, relative_diff: 0.125 };
  for (const [name, value] of Object.entries(expected)) assert.ok(Math.abs(found[name] - value) < 1e-6, `${name} ${found[name]}`);
});

test('what misses a threshold is named, NaN included', () => {
  assert.deepEqual(beyond({ cosine: 1, norm_error: 0 }, { cosine: 0.9, norm_error: 0.1 }), []);
  assert.match(beyond({ cosine: 0.8 }, { cosine: 0.9 })[0], /^cosine 0\.8 \(must be ≥ 0\.9\)/);
  assert.equal(beyond(compare([[1, 2]], [[NaN, 2]]), { correlation: 0.9, norm_error: 0.1, relative_diff: 9 }).length, 3);
  assert.match(beyond({ cosine: 1 }, { sharpness: 1 })[0], /^sharpness is not known here/);
});

const gpu = (adapter) => ({ requestAdapter: async () => adapter });
const adapter = (info, features = []) => gpu({ info, features: new Set(features) });

test('the accelerator, and why', async () => {
  const said = async (wish, found) => {
    const { accelerator, precision, reason } = choose(wish, await probe(found));
    return `${accelerator} ${precision}: ${reason}`;
  };
  const real = adapter({ vendor: 'arm', architecture: 'valhall' }, ['shader-f16']);
  const software = adapter({ description: 'SwiftShader Device' });
  assert.equal(await said('auto', real), 'webgpu fp16: arm valhall');
  assert.equal(await said('wasm', real), 'wasm fp32: as chosen');
  assert.equal(await said('auto', adapter({ vendor: 'old' })), 'webgpu fp32: old (no shader-f16)');
  assert.match(await said('auto', software), /^wasm .*SwiftShader/);
  assert.match(await said('auto', adapter({ vendor: 'x', isFallbackAdapter: true })), /^wasm .*in software/);
  assert.match(await said('webgpu', software), /^webgpu fp32: .*in software, no shader-f16/);
  assert.match(await said('webgpu', gpu(null)), /^wasm .*no GPU/);
  assert.match(await said('webgpu', { requestAdapter: () => Promise.reject(new Error('lost')) }), /^wasm .*no GPU/);
  assert.match(await said('webgpu', null), /^wasm .*no WebGPU/);
});
