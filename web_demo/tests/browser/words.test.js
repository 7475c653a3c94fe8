// Words in the page: the text tower beside Python's, and a person's own labels.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { answer, classify, copyOf, errorOf, launch, only, open, picture, serve, visit, work } from './harness.js';

const TEXT_TOWER = 'pe_core_tiny_384_text_fp32.tflite';
const texts = JSON.parse(readFileSync(path.join(work, 'texts.json'), 'utf8'));
let browser;
let server;

before(async () => {
  server = await serve(only('tiny', 'fp16'));
  browser = await launch();
});

after(() => Promise.all([browser?.close(), server?.stop()]));

const add = async (page, label) => {
  await page.fill('#new-label', label);
  await page.press('#new-label', 'Enter');
};
const chips = (page) => page.$$eval('#chips li button:nth-child(2)', (buttons) => buttons.map((button) => button.textContent));
const labelled = (page, labels) => page.waitForFunction(
  (wanted) => [...document.querySelectorAll('#results li')].map((row) => row.children[1].textContent).sort().join() === wanted, [...labels].sort().join(), { timeout: 60_000 });

test('embeddings of texts are Python’s', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, server.address);
  const found = await page.evaluate(async (given) => {
    const { readManifest } = await import('./bundle.js');
    const { TextTower } = await import('./texttower.js');
    const { rows, cut } = await new TextTower(await readManifest()).embed(given);
    return { rows: rows.map((row) => [...row]), cut };
  }, texts.map(({ text }) => text));
  const worst = Math.max(...texts.flatMap(({ row }, i) => row.map((value, k) => Math.abs(value - found.rows[i][k]))));
  assert.ok(worst <= 1e-5, `max |difference| ${worst}`); // float32 on both sides, sums in another order
  assert.deepEqual(texts.filter((_, i) => found.cut[i]).map(({ text }) => text.slice(0, 6)), ['over o', 'xxxxxx']);
  check();
});

test('a person’s own labels are added, edited, moved, removed, and remembered', async (t) => {
  const { page, seen, check } = await visit(t, browser);
  await open(page, server.address);
  await classify(page, picture('chelsea.png'));
  assert.ok(!seen.some((url) => url.includes(TEXT_TOWER))); // until it is needed
  await page.getByLabel('My own').check();
  assert.match(await page.textContent('#own-size'), /downloaded once: \d+\.\d MB/);
  assert.match(await page.textContent('#hint'), /Add a label/);
  for (const label of ['a cat', 'a rocket', '<b>bold</b>']) await add(page, label);
  await labelled(page, ['a cat', 'a rocket', '<b>bold</b>']);
  assert.equal(seen.filter((url) => url.includes(TEXT_TOWER)).length, 1);
  assert.deepEqual(await chips(page), ['a cat', 'a rocket', '<b>bold</b>']);

  await add(page, 'A  Cat ');
  assert.equal(await page.textContent('#own-said'), '“a cat” is in the list already.');
  await page.fill('#new-label', ' ');
  await page.press('#new-label', 'Enter');
  assert.match(await page.textContent('#own-said'), /needs a word/);

  await page.getByRole('button', { name: 'Move a cat back' }).click();
  assert.deepEqual(await chips(page), ['a rocket', 'a cat', '<b>bold</b>']);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'a cat');
  await page.keyboard.press('Alt+ArrowLeft');
  assert.deepEqual(await chips(page), ['a cat', 'a rocket', '<b>bold</b>']);
  await page.keyboard.press('Enter');
  await page.keyboard.type('two dogs');
  await page.keyboard.press('Enter');
  assert.deepEqual(await chips(page), ['two dogs', 'a rocket', '<b>bold</b>']);
  await page.keyboard.press('Delete');
  await labelled(page, ['a rocket', '<b>bold</b>']);

  const before = await answer(page);
  await page.fill('#template', 'no place for it');
  await page.press('#template', 'Tab');
  assert.match(await page.textContent('#own-said'), /needs {}/);
  await page.fill('#template', '{}');
  await page.press('#template', 'Tab');
  await page.waitForFunction((old) => Number(document.querySelector('#results li').dataset.cosine) !== old, before[0].cosine);

  await page.screenshot({ path: path.join(work, 'own_labels.png'), fullPage: true });
  await open(page, server.address);
  assert.ok(await page.getByLabel('The bundle’s').isChecked());
  await page.getByLabel('My own').check();
  assert.deepEqual(await chips(page), ['a rocket', '<b>bold</b>']);
  assert.equal(await page.inputValue('#template'), '{}');
  await classify(page, picture('chelsea.png'));
  await labelled(page, ['a rocket', '<b>bold</b>']);
  assert.equal(seen.filter((url) => url.includes(TEXT_TOWER)).length, 1); // kept
  await page.getByLabel('The bundle’s').check();
  assert.equal((await answer(page)).length, 5);
  check();
});

test('a bundle without labels begins with a person’s own', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  delete manifest.labels;
  writeFileSync(file, JSON.stringify(manifest));
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assert.ok(await page.getByLabel('My own').isChecked());
  assert.ok(await page.getByLabel('The bundle’s').isDisabled());
  await add(page, 'a cat');
  await page.setInputFiles('#file', picture('chelsea.png'));
  await labelled(page, ['a cat']);
  check();
});

test('a bundle without a text tower says what is missing, and a damaged one what is wrong', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  const own = await serve(folder);
  t.after(own.stop);
  writeFileSync(path.join(folder, TEXT_TOWER), 'short');
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  await page.getByLabel('My own').check();
  await add(page, 'a cat');
  assert.match(await errorOf(page), /text_fp32\.tflite is truncated, 5 of \d+ bytes/);

  writeFileSync(file, JSON.stringify({ ...manifest, text: { ...manifest.text, weights: { ...manifest.text.weights, seed: 1, source: 'seed 1' } } }));
  await open(page, own.address);
  assert.match(await page.textContent('#no-words'), /can’t be compared with its model: they are from seed 1/);

  delete manifest.text;
  writeFileSync(file, JSON.stringify(manifest));
  await open(page, own.address);
  assert.ok(await page.getByLabel('My own').isDisabled());
  assert.match(await page.textContent('#no-words'), /no text tower: “pecore convert --size T16 --tower text” adds one/);
  await open(page, `${own.address}?search`);
  assert.ok(await page.locator('#words').isDisabled());
  assert.match(await page.textContent('#words-note'), /no text tower.*A picture can be searched/);
  check();
});
