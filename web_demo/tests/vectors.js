// The vectors that every port is tested with: docs/preprocessing.md.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const folder = new URL('../../tests/vectors/', import.meta.url);

export const bytes = (name) => new Uint8Array(readFileSync(new URL(name, folder)));
export const floats = (name) => new Float32Array(bytes(name).buffer);
export const sha256 = (data) => createHash('sha256').update(data).digest('hex');
export const vectors = JSON.parse(Buffer.from(bytes('vectors.json')).toString());
