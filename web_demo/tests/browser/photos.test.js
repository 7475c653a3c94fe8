// A person's own photographs: embedded here, kept over a closed tab, found by words and by pictures.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { bundle, errorOf, launch, only, open, picture, serve, settled, visit, work } from './harness.js';
import { assertSameTen, counting, find, pythonSearch, read, shown, withInput } from './searching.js';

const SAME = 1e-4; // cosines: the fp16 file and the float32 text tower, of pixels that are the same to the bit
const ALL = 40;
let browser;
let server;

before(async () => {
  server = await serve(only('tiny', 'fp16'));
  browser = await launch();
});

after(() => Promise.all([browser?.close(), server?.stop()]));

/** A folder of photographs that may be changed. */
function photographs() {
  const folder = path.join(mkdtempSync(path.join(tmpdir(), 'pecore-web-')), 'photos');
  cpSync(path.join(work, 'photos'), folder, { recursive: true, preserveTimestamps: true });
  return folder;
}

test('what is found is what Python finds, for words and for a picture', async (t) => {
  const folder = photographs();
  rmSync(path.join(folder, 'broken.jpg'));
  const search = await pythonSearch(bundle('tiny'), folder);
  const { page, check } = await visit(t, browser);
  await withInput(page);
  await open(page, `${server.address}?search`);
  assert.ok(await page.locator('#find').isDisabled());
  await page.setInputFiles('#folder', folder);
  await read(page);
  assert.match(await page.textContent('#indexing-said'), /40 photographs to search \(40 new\)/);
  for (const words of ['a cat on a sofa', 'rocket']) assertSameTen(await find(page, words), await search(words), SAME);
  await page.setInputFiles('#query-picture', picture('coffee.png'));
  await page.waitForFunction(() => document.getElementById('found').textContent.includes('coffee.png'));
  assertSameTen(await shown(page), await search(picture('coffee.png')), SAME);
  check();
});

test('a closed tab goes on where it was, and every photograph is embedded once', async (t) => {
  const folder = photographs();
  const { page: first, check } = await visit(t, browser);
  await withInput(first);
  await counting(first, 40);
  await open(first, `${server.address}?search`);
  await first.setInputFiles('#folder', folder);
  await first.waitForFunction(() => globalThis.embedded > 12, null, { timeout: 60_000 });
  assert.match(await first.textContent('#indexing-text'), /\d+ of 41 photographs, .*left/);
  const half = await first.evaluate(() => globalThis.embedded);
  await first.close();

  const page = await first.context().newPage();
  await withInput(page);
  await counting(page);
  await open(page, `${server.address}?search`);
  assert.match(await page.textContent('#indexing-said'), /^1\d photographs of “photos” can be searched, from the last visit\. .*choose the folder again/);
  assert.ok((await find(page, 'a cat')).length >= 10); // before the folder is chosen again
  await page.setInputFiles('#folder', folder);
  await read(page);
  const again = await page.evaluate(() => globalThis.embedded);
  assert.ok(half + again <= ALL + 2 && again >= ALL + 1 - half, `${half}, then ${again}`); // what was being read when the tab closed is read again
  assert.equal(await page.textContent('#unreadable-count'), '1 photograph can’t be read by this browser');
  assert.equal(await page.textContent('#unreadable-list'), 'photos/broken.jpg');
  await page.setInputFiles('#folder', folder);
  await read(page, /\(0 new\)/);
  assert.equal(await page.evaluate(() => globalThis.embedded), again); // the broken one neither
  check();
});

test('changed photographs are read again, vanished ones are gone', async (t) => {
  const folder = photographs();
  const { page, check } = await visit(t, browser);
  await withInput(page);
  await open(page, `${server.address}?search`);
  await page.setInputFiles('#folder', folder);
  await read(page);
  const before = await find(page, 'a cat');
  const [changed, vanished] = before.map((found) => path.join(path.dirname(folder), found.path));
  cpSync(path.join(path.dirname(folder), before.at(-1).path), changed);
  utimesSync(changed, new Date(), new Date());
  rmSync(vanished);
  await page.setInputFiles('#folder', folder);
  await read(page, /39 photographs to search \(1 new, 1 gone\)/);
  const after = await find(page, 'a cat');
  assert.equal(after.length, ALL - 1);
  assert.ok(Math.abs(after.find((found) => found.path === before[0].path).cosine - before.at(-1).cosine) < 1e-6);
  assert.ok(!after.some((found) => found.path === before[1].path));
  check();
});

test('it pauses, goes on, and the keyboard is enough', async (t) => {
  const { page, check } = await visit(t, browser, { viewport: { width: 1180, height: 900 } });
  await withInput(page);
  await counting(page, 60);
  await open(page, `${server.address}?search`);
  const chooser = page.waitForEvent('filechooser');
  await page.focus('#choose-folder');
  await page.keyboard.press('Enter');
  await (await chooser).setFiles(photographs());
  await page.waitForFunction(() => globalThis.embedded > 5);
  await page.focus('#pause');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.getElementById('indexing-text').textContent.endsWith('paused'));
  assert.equal(await page.textContent('#pause'), 'Go on');
  const paused = await page.evaluate(() => globalThis.embedded);
  await page.waitForTimeout(400);
  assert.equal(await page.evaluate(() => globalThis.embedded), paused);
  assert.ok((await find(page, 'a cat')).length > 3); // meanwhile
  await page.screenshot({ path: path.join(work, 'search_paused.png'), fullPage: true });
  await page.focus('#pause');
  await page.keyboard.press('Enter');
  await read(page);
  await find(page, 'two dogs');
  await page.keyboard.press('Tab'); // the buttons beside the field
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  const focused = () => page.evaluate(() => [...document.querySelectorAll('#grid button')].indexOf(document.activeElement));
  assert.equal(await focused(), 0);
  for (const [key, at] of [['ArrowRight', 1], ['End', ALL - 1], ['ArrowRight', ALL - 1], ['Home', 0], ['ArrowLeft', 0]]) {
    await page.keyboard.press(key);
    assert.equal(await focused(), at, key);
  }
  await page.keyboard.press('ArrowDown');
  const below = await focused();
  assert.ok(below > 1);
  const chosen = (await shown(page))[below].path;
  await page.keyboard.press('Enter');
  await page.waitForFunction((name) => document.getElementById('found').textContent.endsWith(`to ${name}.`), chosen.split('/').at(-1));
  await page.waitForFunction(() => document.activeElement.closest('#grid'));
  const like = await shown(page);
  assert.equal(like[0].path, chosen);
  assert.ok(Math.abs(like[0].cosine - 1) < 1e-5);
  assert.ok((await page.$$eval('#grid img', (images) => images.map((image) => image.naturalWidth))).every((width) => width > 0));
  await page.screenshot({ path: path.join(work, 'search.png') });
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: path.join(work, 'search_phone.png') });
  page.on('dialog', (dialog) => dialog.accept());
  await page.click('#forget');
  await page.waitForFunction(() => document.getElementById('indexing-said').textContent === 'Forgotten.');
  assert.equal((await shown(page)).length, 0);
  check();
});

/** A folder behind the File System Access API: the page's own private one, with three photographs in it. */
const withPicker = (page) => page.addInitScript(() => {
  globalThis.showDirectoryPicker = async () => (await navigator.storage.getDirectory()).getDirectoryHandle('album', { create: true });
});

async function fill(page, names) {
  await page.evaluate(async (given) => {
    const album = await (await navigator.storage.getDirectory()).getDirectoryHandle('album', { create: true });
    for (const [i, name] of given.entries()) {
      const canvas = new OffscreenCanvas(80 + i, 60);
      const drawing = canvas.getContext('2d');
      drawing.fillStyle = `hsl(${97 * i} 80% 50%)`;
      drawing.fillRect(0, 0, 80, 30);
      const writable = await (await album.getFileHandle(name, { create: true })).createWritable();
      await writable.write(await canvas.convertToBlob({ type: 'image/png' }));
      await writable.close();
    }
  }, names);
}

test('a folder that the browser may ask again is read again by itself', async (t) => {
  const { page, check } = await visit(t, browser);
  await withPicker(page);
  await open(page, `${server.address}?search`);
  await fill(page, ['a.png', 'b.png']);
  await page.click('#choose-folder');
  await read(page, /2 photographs to search \(2 new\)/);
  await fill(page, ['a.png', 'b.png', 'c.png'].slice(2));
  await page.reload();
  await settled(page);
  await read(page, /3 photographs to search \(1 new\)/);

  // The permission is taken back: what was read can be searched, and the page says what to do.
  await page.addInitScript(() => {
    FileSystemDirectoryHandle.prototype.queryPermission = async () => 'prompt';
    FileSystemDirectoryHandle.prototype.requestPermission = async () => 'denied';
  });
  await page.reload();
  await settled(page);
  assert.match(await page.textContent('#indexing-said'), /^3 photographs of “album” can be searched/);
  assert.equal((await find(page, 'a cat')).length, 3);
  await page.click('#go-on');
  assert.match(await errorOf(page), /not allowed to read “album”/);
  check();
});

test('“Automatic” stays with the file that the folder was read with', async (t) => {
  const both = await serve(bundle('tiny'));
  t.after(both.stop);
  const { page, check } = await visit(t, browser);
  const runsWith = (said) => page.waitForFunction((text) => document.getElementById('reason').textContent.endsWith(text), said, { timeout: 60_000 });
  await withPicker(page);
  await open(page, `${both.address}?search`);
  await fill(page, ['a.png', 'b.png']);
  await page.selectOption('#weights', 'fp16');
  await runsWith('fp16 weights, as chosen.');
  await settled(page);
  await page.click('#choose-folder');
  await read(page, /2 photographs to search \(2 new\)/);
  await page.reload();
  await runsWith('fp16 weights, with which this folder was read before.');
  await read(page, /2 photographs to search \(0 new\)/);
  await page.selectOption('#weights', 'int8');
  await runsWith('int8 weights, as chosen.');
  await read(page, /2 photographs to search \(2 new\)/);
  await page.reload();
  await runsWith('int8 weights, the fastest on WASM in this bundle.');
  await read(page, /2 photographs to search \(0 new\)/);
  check();
});

test('a permission that is revoked, and a full disk, stop the reading with a sentence', async (t) => {
  const { page, check } = await visit(t, browser);
  await withPicker(page);
  await open(page, `${server.address}?search`);
  await fill(page, ['a.png', 'b.png', 'c.png']);
  await page.evaluate(() => {
    let left = 1;
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (...given) {
      if (this.name === 'photos' && left-- <= 0) throw new DOMException('full', 'QuotaExceededError');
      return put.apply(this, given);
    };
    globalThis.makeRoom = () => (IDBObjectStore.prototype.put = put);
  });
  await page.click('#choose-folder');
  assert.match(await errorOf(page), /no more room for this page.*go on/);
  assert.match(await page.textContent('#indexing-said'), /^Stopped after 1 photograph/);
  await page.evaluate(() => {
    globalThis.makeRoom();
    const getFile = FileSystemFileHandle.prototype.getFile;
    FileSystemFileHandle.prototype.getFile = async function () {
      if (this.name === 'c.png') throw new DOMException('no', 'NotAllowedError');
      return getFile.call(this);
    };
  });
  await page.click('#go-on');
  assert.match(await errorOf(page), /may no longer read “album”: press “Go on” and allow it again/);
  assert.match(await page.textContent('#indexing-said'), /^Stopped after 2 photographs/);
  check();
});

test('ten thousand entries are searched, and memory stays bounded', async (t) => {
  const { page, check } = await visit(t, browser);
  await withInput(page);
  await open(page, `${server.address}?search`);
  const session = await page.context().newCDPSession(page);
  const heap = async () => {
    await session.send('HeapProfiler.collectGarbage');
    return (await session.send('Runtime.getHeapUsage')).backingStorageSize + (await session.send('Runtime.getHeapUsage')).usedSize;
  };
  const before = await heap();
  await page.evaluate(async () => {
    const { PhotoStore } = await import('./photostore.js');
    const { readManifest } = await import('./bundle.js');
    const { pick } = await import('./weights.js');
    const [store, model] = [await PhotoStore.open(), pick((await readManifest()).files, 'auto', 'wasm').file.sha256];
    let state = 1;
    for (let number = 0; number < 10_000; number += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, i) => {
        const row = Float32Array.from({ length: 512 }, () => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff - 0.5);
        const norm = Math.hypot(...row);
        return store.save(model, { path: `made up/${number + i}.png`, size: 1, modified: 1, row: row.map((value) => value / norm) });
      }));
    }
    await store.setFolder({ name: 'made up' });
  });
  await open(page, `${server.address}?search`);
  assert.match(await page.textContent('#indexing-said'), /^10,000 photographs/);
  const found = await find(page, 'a cat');
  assert.equal(found.length, 60);
  found.slice(1).forEach(({ cosine }, i) => assert.ok(cosine <= found[i].cosine));
  for (let number = 0; number < 20; number++) await find(page, `word ${number}`);
  // 20.5 MB of numbers, in a block that has grown by doubling: 33.6; the paths; and no more with every search.
  const used = (await heap()) - before;
  assert.ok(used < 80e6, `${used} bytes`);
  assert.equal(await page.locator('#grid li').count(), 60);
  const ms = await page.evaluate(async () => {
    const { VectorTable } = await import('./vectors.js');
    const table = new VectorTable(512);
    for (let number = 0; number < 10_000; number++) table.set(`${number}`, Float32Array.from({ length: 512 }, () => Math.random() - 0.5));
    const times = Array.from({ length: 20 }, () => {
      const started = performance.now();
      table.nearest(table.row('17'), 60);
      return performance.now() - started;
    });
    return times.sort((a, b) => a - b)[10];
  });
  writeFileSync(path.join(work, 'search.json'), JSON.stringify({ entries: 10_000, dim: 512, ms, bytes: used }));
  check();
});
