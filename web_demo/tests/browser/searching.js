// What the tests of the search have in common: the page's screen, and Python's own search.
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { pecore } from './harness.js';

/** Without the File System Access API, whose dialog nobody answers here: an <input webkitdirectory>. */
export const withInput = (page) => page.addInitScript(() => delete window.showDirectoryPicker);

/** Each photograph that is embedded is counted, and takes a little. */
export const counting = (page, ms = 0) => page.addInitScript((wait) => {
  globalThis.embedded = 0;
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...rest) {
    if (message.task !== 'embed') return post.call(this, message, ...rest);
    globalThis.embedded++;
    setTimeout(() => post.call(this, message, ...rest), wait);
  };
}, ms);

export const read = (page, said = /^Everything in “photos” is read/) => page.waitForFunction(
  (text) => new RegExp(text).test(document.getElementById('indexing-said').textContent), said.source, { timeout: 120_000 });

/** Look for words: what is shown. */
export async function find(page, words) {
  await page.fill('#words', words);
  await page.press('#words', 'Enter');
  await page.waitForFunction((text) => document.getElementById('found').textContent.includes(`“${text}”`), words, { timeout: 60_000 });
  return shown(page);
}

export const shown = (page) => page.$$eval('#grid button', (buttons) => buttons.map(({ dataset }) => ({ path: dataset.path, cosine: Number(dataset.cosine) })));

/** Embeds a folder in Python; the function that searches it, with the paths that the page gives. */
export async function pythonSearch(bundle, folder) {
  const index = path.join(mkdtempSync(path.join(tmpdir(), 'pecore-web-')), 'photos.lance');
  const made = await pecore('embed', folder, '--bundle', bundle, '--out', index);
  assert.equal(made.code, 0, made.stderr);
  return async (query) => {
    const { code, stdout, stderr } = await pecore('search', index, query, '--bundle', bundle, '--json');
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).found.map(({ path: file, cosine }) => ({ path: `${path.basename(folder)}/${path.relative(folder, file)}`, cosine }));
  };
}

/** The same first ten, and their cosines within `tolerance`. */
export function assertSameTen(mine, python, tolerance) {
  assert.deepEqual(mine.slice(0, 10).map(({ path: name }) => name), python.map(({ path: name }) => name));
  python.forEach(({ cosine }, i) => assert.ok(Math.abs(mine[i].cosine - cosine) <= tolerance, `${mine[i].path}: ${mine[i].cosine}, not ${cosine}`));
}
