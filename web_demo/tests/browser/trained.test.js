// The trained tower names pictures as Python does, and finds them: `prepare.py` makes its bundle, 300 pictures, and `queries.json`, a list of
// {words, path}: what a person would type for a picture, and which one it is.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { classify, launch, open, root, serve, visit, work } from './harness.js';
import { assertSameTen, counting, find, pythonSearch, read, withInput } from './searching.js';

const folder = path.join(work, 'trained');
const drawings = path.join(root, 'tests/drawings/images');
const SAME = 1e-4; // cosines, of pixels that are the same to the bit
const FOUND = 0.5; // of the queries, among the first ten

test('the first label of 200 drawings is the one in Python’s recording', async (t) => {
  const { labels, template, top1 } = JSON.parse(readFileSync(path.join(root, 'tests/zero_shot/drawings/recording.json'), 'utf8'));
  const pictures = labels.flatMap((label) => readdirSync(path.join(drawings, label)).sort().map((name) => path.join(drawings, label, name)));
  assert.equal(pictures.length, top1.length);
  const [server, browser] = await Promise.all([serve(path.join(folder, 'bundle')), launch()]);
  t.after(() => Promise.all([browser.close(), server.stop()]));
  const { page, check } = await visit(t, browser);
  const { name, weights } = JSON.parse(readFileSync(path.join(folder, 'bundle', 'manifest.json'), 'utf8'));
  await page.addInitScript(([key, remembered]) => localStorage.setItem(key, remembered), // as if typed on an earlier visit
    [`pecore-labels ${name} ${weights.fingerprint}`, JSON.stringify({ labels, template })]);
  await open(page, server.address);
  assert.ok(await page.getByLabel('My own').isChecked()); // the bundle has none
  const found = [];
  for (const picture of pictures) found.push(labels.indexOf((await classify(page, picture))[0].label));
  assert.deepEqual(found, top1);
  check();
});

test('words find the pictures, over a tab that was closed in the middle', async (t) => {
  const [bundle, pictures] = ['bundle', 'pictures'].map((name) => path.join(folder, name));
  const queries = JSON.parse(readFileSync(path.join(folder, 'queries.json'), 'utf8'));
  const [server, browser] = await Promise.all([serve(bundle), launch()]);
  t.after(() => Promise.all([browser.close(), server.stop()]));
  const search = await pythonSearch(bundle, pictures);

  const { page: first, check } = await visit(t, browser, { viewport: { width: 1180, height: 900 } });
  await withInput(first);
  await counting(first, 10);
  await open(first, `${server.address}?search`);
  await first.setInputFiles('#folder', pictures);
  await first.waitForFunction(() => globalThis.embedded > 100, null, { timeout: 300_000 });
  await first.close();
  const page = await first.context().newPage();
  await withInput(page);
  await open(page, `${server.address}?search`);
  await page.setInputFiles('#folder', pictures);
  await read(page, /is read: \d+ photographs/);

  let hits = 0;
  for (const { words, path: wanted } of queries) {
    const mine = await find(page, words);
    assertSameTen(mine, await search(words), SAME);
    hits += mine.slice(0, 10).some(({ path: found }) => found === wanted);
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: path.join(work, 'found_by_words.png') });
  assert.ok(hits >= FOUND * queries.length, `${hits} of ${queries.length} are found`);
  check();
});
