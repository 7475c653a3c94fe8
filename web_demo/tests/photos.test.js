// The parts of the search that need no browser: the table of vectors, the loop that embeds, a person's list of labels.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { listFiles, listHandle } from '../site/folder.js';
import { Gate, indexPhotos, timeLeft } from '../site/indexer.js';
import { moved, prompt, refused, refusedTemplate, replaced, restored, TEMPLATE } from '../site/labellist.js';
import { VectorTable } from '../site/vectors.js';

/** Seeded, of norm 1. */
function vectors(n, dim) {
  let state = 7;
  return Array.from({ length: n }, () => {
    const row = Float32Array.from({ length: dim }, () => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff - 0.5);
    const norm = Math.hypot(...row);
    return row.map((value) => value / norm);
  });
}

test('the nearest rows are those of a full sort, after rows were replaced and taken out', () => {
  const [query, ...rows] = vectors(401, 16);
  const table = new VectorTable(16, 4);
  const kept = new Map();
  rows.forEach((row, i) => {
    const name = `${i % 150}`; // some are replaced
    table.set(name, row);
    kept.set(name, row);
  });
  for (let i = 0; i < 150; i += 3) {
    table.delete(`${i}`);
    kept.delete(`${i}`);
  }
  table.delete('149');
  kept.delete('149');
  table.delete('nothing of the kind');
  const dot = (row) => row.reduce((sum, value, i) => sum + value * query[i], 0);
  const sorted = [...kept].map(([path, row]) => ({ path, cosine: dot(row) })).sort((a, b) => b.cosine - a.cosine);
  assert.equal(table.length, sorted.length);
  assert.deepEqual(table.nearest(query, 20), sorted.slice(0, 20));
  assert.deepEqual(table.nearest(query, 1000), sorted);
  assert.deepEqual(table.row('10'), kept.get('10'));
  assert.throws(() => table.set('x', new Float32Array(3)), /3 numbers in a table of 16/);
});

test('of equal cosines the first by name comes first', () => {
  const table = new VectorTable(2);
  for (const path of ['b', 'c', 'a']) table.set(path, [1, 0]);
  assert.deepEqual(table.nearest([1, 0], 2).map(({ path }) => path), ['a', 'b']);
});

test('ten thousand rows: the table is not much larger than they are', () => {
  const table = new VectorTable(512);
  const row = vectors(1, 512)[0];
  for (let i = 0; i < 10_000; i++) table.set(`${i}`, row);
  assert.ok(table.bytes <= 2 * 10_000 * 512 * 4);
});

const entry = (path, size = 1, lastModified = 1) => ({ path, file: async () => ({ size, lastModified, slice: () => ({ arrayBuffer: async () => new ArrayBuffer(1) }) }) });
const gone = (name) => async () => {
  throw Object.assign(new Error(), { name });
};

/** What indexPhotos does with `entries`, on top of what is `known`. */
async function run(entries, known = new Map(), over = {}) {
  const did = { saved: [], forgotten: [], states: [] };
  const work = {
    embed: async () => ({ output: [1], thumbnail: 'small' }),
    save: async (photo) => did.saved.push(photo),
    forget: async (paths) => did.forgotten.push(...paths),
    progress: (state) => did.states.push(state),
    gate: new Gate(),
    now: () => did.saved.length * 1000,
    ...over,
  };
  return { ...did, known, counts: await indexPhotos(entries, known, work) };
}

test('new, changed, vanished and known photographs', async () => {
  const known = new Map(['same', 'larger', 'newer', 'away'].map((path) => [path, { size: 1, modified: 1 }]));
  const { saved, forgotten, counts } = await run([entry('same'), entry('larger', 2), entry('newer', 1, 2), entry('new')], known);
  assert.deepEqual(saved.map(({ path, size, modified }) => [path, size, modified]), [['larger', 2, 1], ['newer', 1, 2], ['new', 1, 1]]);
  assert.deepEqual(forgotten, ['away']);
  assert.deepEqual(counts, { embedded: 3, unreadable: 0, gone: 1, kept: 1 });
  assert.deepEqual([...known.keys()].sort(), ['larger', 'new', 'newer', 'same']);
});

test('what is no picture is kept as such; what goes meanwhile is gone', async () => {
  const embed = async () => {
    throw Object.assign(new Error('not a picture'), { kind: 'unreadable' });
  };
  const first = await run([entry('x.jpg')], new Map(), { embed });
  assert.deepEqual(first.saved, [{ path: 'x.jpg', size: 1, modified: 1, problem: 'not a picture' }]);
  assert.equal((await run([entry('x.jpg')], first.known, { embed })).counts.kept, 1);
  const file = async () => ({ size: 1, lastModified: 1, slice: () => ({ arrayBuffer: gone('NotReadableError') }) });
  const known = new Map([['b', { size: 9, modified: 9 }]]);
  const { counts, saved, forgotten } = await run([{ path: 'a', file: gone('NotFoundError') }, { path: 'b', file }], known, { embed });
  assert.deepEqual([counts.gone, saved, forgotten], [2, [], ['b']]);
});

test('what stands in the way of all ends the loop, and keeps what was done', async () => {
  const named = (name) => ({ name });
  let room = 2;
  const known = new Map();
  const save = async () => {
    if (room-- <= 0) throw Object.assign(new Error(), { name: 'QuotaExceededError' });
  };
  await assert.rejects(run([entry('a'), entry('b'), entry('c')], known, { save }), named('QuotaExceededError'));
  assert.deepEqual([...known.keys()], ['a', 'b']);
  await assert.rejects(run([{ path: 'a', file: gone('NotAllowedError') }]), named('NotAllowedError'));
  await assert.rejects(run([entry('a')], new Map(), { embed: gone('RangeError') }), named('RangeError'));
});

test('it pauses, goes on, and stops', async () => {
  const gate = new Gate();
  const embedded = [];
  const embed = async () => {
    embedded.push(1);
    if (embedded.length === 2) gate.pause();
    return { output: [1] };
  };
  const all = ['a', 'b', 'c', 'd'].map((path) => entry(path));
  const end = run(all, new Map(), { embed, gate });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(embedded.length, 2);
  gate.resume();
  assert.equal((await end).counts.embedded, 4);
  gate.pause();
  const stopped = run(all, new Map(), { embed, gate });
  gate.stop();
  assert.equal((await stopped).counts.embedded, 0);
});

test('the time left is reckoned from what took time', async () => {
  const known = new Map([['a', { size: 1, modified: 1 }]]);
  const { states } = await run(['a', 'b', 'c', 'd'].map((path) => entry(path)), known);
  assert.deepEqual(states.map(({ done, secondsLeft }) => [done, secondsLeft]), [[0, null], [1, null], [2, 2], [3, 1], [4, 0]]);
  const said = [3, 31, 59.5, 61, 150, 5300, 7300].map(timeLeft);
  assert.deepEqual(said, ['a few seconds left', 'about 40 seconds left', 'about 60 seconds left', 'about 1 minute left', 'about 3 minutes left', 'about 88 minutes left', 'about 2 hours left']);
});

test('pictures of a folder, hidden ones left out', async () => {
  const files = ['photos/b.JPG', 'photos/a/c.heic', 'photos/.cache/d.png', 'photos/._e.png', 'photos/f.txt'];
  const listed = listFiles(files.map((webkitRelativePath) => ({ name: webkitRelativePath.split('/').at(-1), webkitRelativePath })));
  assert.deepEqual([listed.name, ...listed.entries.map(({ path }) => path)], ['photos', 'photos/a/c.heic', 'photos/b.JPG']);
  const file = { kind: 'file' };
  const directory = (name, inside) => ({ kind: 'directory', name, entries: async function* () { yield* inside; } });
  const handle = directory('photos', [['b.png', file], ['a', directory('a', [['c.webp', file], ['.d.png', file]])], ['.git', directory('.git', [['e.png', file]])]]);
  assert.deepEqual((await listHandle(handle)).map(({ path }) => path), ['photos/a/c.webp', 'photos/b.png']);
});

test('a person’s list of labels', () => {
  assert.equal(refused(['Red Panda'], 'red  panda'), '“Red Panda” is in the list already.');
  assert.equal(refused(['cat'], 'CAT', 0), null); // replaces itself
  assert.match(refused([], ' \t'), /word or two/);
  assert.match(refusedTemplate('a photo'), /needs {}/);
  assert.equal(prompt('{} and {}', '$& cat'), '$& cat and $& cat');
  assert.deepEqual(replaced(['a', 'b'], 1, ' c '), ['a', 'c']);
  assert.deepEqual(moved(['a', 'b', 'c'], 0, 1), ['b', 'a', 'c']);
  assert.deepEqual(moved(['a', 'b'], 0, -1), ['a', 'b']);
  assert.deepEqual(restored('{"labels":["cat"],"template":"{}"}'), { labels: ['cat'], template: '{}' });
  for (const text of [null, 'x', '{"labels":[1],"template":"{}"}', '{"labels":[],"template":"x"}']) assert.deepEqual(restored(text), { labels: [], template: TEMPLATE });
});
