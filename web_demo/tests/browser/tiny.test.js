// The whole page with a tower of two blocks, on WASM and on WebGPU (SwiftShader).
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { answer, assertSame, bundle, chooseAndSettle, classify, copyOf, errorOf, expected, launch, only, open, pecore, picture, serve, settled, visit, work } from './harness.js';

const SAME = 1e-4; // scores of the fp16 file, of pixels that are the same to the bit
const SAME_INT8 = 0.05; // probabilities: int8 activations fall on either side of a rounding, and the logit scale is 100
const SAME_PIXELS_NEARLY = 0.05; // probabilities where JPEG decoders, or alpha on white, differ by a step of 255
const EXACT = ['astronaut.png', 'chelsea.png', 'coffee.png', 'profile.png']; // the last has a colour profile, which is ignored
const NEARLY = ['transparent.png', 'turned.jpg'];

const MODEL = 'pe_core_tiny_384_fp16.tflite';
const wanted = expected('tiny');
let browser;
let server; // of a bundle with the fp16 file alone
let both; // and with the int8 file

before(async () => {
  [server, both] = await Promise.all([serve(only('tiny', 'fp16')), serve(bundle('tiny'))]);
  browser = await launch();
});

after(() => Promise.all([browser?.close(), server?.stop(), both?.stop()]));

test('scores are Python’s, on WASM and on WebGPU', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, server.address);
  assert.ok(await page.locator('#synthetic').isVisible());
  assert.match(await page.textContent('#reason'), /computes in software \(google swiftshader\).* fp16 weights, the only ones in this bundle\.$/);
  for (const [wish, ran] of [['auto', /^WASM/], ['webgpu', /^WebGPU, fp32$/]]) {
    if (wish !== 'auto') await chooseAndSettle(page, '#wish', wish);
    assert.match(await page.textContent('#accelerator'), ran);
    for (const name of EXACT) assertSame(await classify(page, picture(name)), wanted.fp16[name], SAME);
    for (const name of NEARLY) assertSame(await classify(page, picture(name)), wanted.fp16[name], SAME_PIXELS_NEARLY);
  }
  check();
});

test('“Automatic” takes the fastest file for the accelerator, and says so', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, both.address);
  assert.deepEqual(await page.$$eval('#weights option', (options) => options.map(({ value }) => value)), ['auto', 'fp16', 'int8']);
  assert.match(await page.textContent('#reason'), /^On the CPU: .* int8 weights, the fastest on WASM in this bundle\.$/);
  assertSame(await classify(page, picture('coffee.png')), wanted.int8['coffee.png'], SAME_INT8);
  await chooseAndSettle(page, '#wish', 'webgpu');
  assert.match(await page.textContent('#reason'), /^On the GPU: .* fp16 weights, the fastest on WebGPU in this bundle\.$/);
  assertSame(await classify(page, picture('coffee.png')), wanted.fp16['coffee.png'], SAME);
  await page.selectOption('#wish', 'wasm');
  await settled(page);
  await chooseAndSettle(page, '#weights', 'fp16');
  assert.match(await page.textContent('#reason'), /^On the CPU: as chosen\. fp16 weights, as chosen\.$/);
  assertSame(await classify(page, picture('coffee.png')), wanted.fp16['coffee.png'], SAME);
  check();
});

test('on WASM it has a thread for every core, in the build for relaxed SIMD', async (t) => {
  const { page, seen, check } = await visit(t, browser, { serviceWorkers: 'block' });
  await open(page, server.address);
  assert.ok(await page.evaluate(() => crossOriginIsolated));
  const cores = await page.evaluate(() => navigator.hardwareConcurrency);
  assert.equal(await page.textContent('#accelerator'), `WASM, ${cores} thread${cores === 1 ? '' : 's'}`);
  const builds = seen.filter((url) => url.endsWith('.wasm')).map((url) => url.split('/').at(-1));
  assert.deepEqual([...new Set(builds)], ['litert_wasm_threaded_internal.wasm']);
  check();
});

test('pictures are cropped where the manifest says so', async (t) => {
  const folder = only('tiny', 'fp16');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  const preprocessing = { ...manifest.preprocessing, resize: 'crop', filter: 'bicubic, antialiased', crop_pct: 0.9 };
  writeFileSync(file, JSON.stringify({ ...manifest, preprocessing }));
  const { stdout, stderr } = await pecore('classify', picture('coffee.png'), '--bundle', folder, '--weights', 'fp16', '--json');
  assert.ok(stdout, stderr);
  const [{ predictions }] = JSON.parse(stdout).images;
  const squashed = wanted.fp16['coffee.png'].map((row) => row.cosine);
  assert.ok(predictions.some((row, i) => Math.abs(row.cosine - squashed[i]) > 2 * SAME)); // it makes a difference
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assertSame(await classify(page, picture('coffee.png')), predictions, SAME);
  check();
});

test('labels are ticked and unticked, and stay text', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, server.address);
  const before = await classify(page, picture('coffee.png'));
  await page.fill('#filter', before[0].label.slice(0, 3).toUpperCase());
  await page.click('#untick');
  assert.equal(await page.textContent('#count'), '8 of 9 labels are ticked');
  const after = await answer(page);
  assert.deepEqual(after.slice(0, 4).map((row) => row.label), before.slice(1).map((row) => row.label));
  assert.ok(after[0].probability > before[1].probability);
  await page.fill('#filter', '<B>');
  assert.equal(await page.textContent('#list'), '<b>bold</b>');
  await page.fill('#filter', '');
  await page.click('#untick');
  assert.match(await page.textContent('#hint'), /No label is ticked/);
  await page.getByLabel('été').check();
  assert.deepEqual((await answer(page)).map(({ label, probability }) => [label, probability]), [['été', 1]]);
  check();
});

test('pictures are pasted, dropped, and taken by the camera', async (t) => {
  const { page, check } = await visit(t, browser, { permissions: ['camera'] });
  await open(page, server.address);
  const data = [...readFileSync(picture('chelsea.png'))];
  for (const [kind, field] of [['paste', 'clipboardData'], ['drop', 'dataTransfer']]) {
    await page.evaluate(([bytes, type, name]) => {
      document.getElementById('results').replaceChildren();
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], 'x.png', { type: 'image/png' }));
      dispatchEvent(type === 'paste' ? new ClipboardEvent(type, { [name]: transfer }) : new DragEvent(type, { [name]: transfer }));
    }, [data, kind, field]);
    assertSame(await answer(page), wanted.fp16['chelsea.png'], SAME);
  }
  await page.evaluate(() => document.getElementById('results').replaceChildren());
  await page.click('#camera');
  assert.equal((await answer(page)).length, 5);
  assert.ok(await page.locator('#video').isVisible());
  await page.click('#camera');
  assert.ok(!(await page.locator('#video').isVisible()));
  assert.ok(await page.locator('#preview').isVisible());
  check();
});

test('the keyboard is enough', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, server.address);
  const reached = [];
  const chooser = page.waitForEvent('filechooser');
  for (let i = 0; i < 12; i++) {
    await page.keyboard.press('Tab');
    reached.push(await page.evaluate(() => document.activeElement.id));
    if (reached.at(-1) === 'pick') await page.keyboard.press('Enter');
  }
  await (await chooser).setFiles(picture('chelsea.png'));
  assertSame(await answer(page), wanted.fp16['chelsea.png'], SAME);
  for (const id of ['pick', 'camera', 'wish', 'weights', 'filter', 'tick', 'untick']) assert.ok(reached.includes(id), `${id} is not reached: ${reached}`);
  check();
});

test('the page opens without its server', async (t) => {
  const own = await serve(only('tiny', 'fp16'));
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  await own.stop();
  await page.reload();
  await settled(page);
  assertSame(await classify(page, picture('coffee.png')), wanted.fp16['coffee.png'], SAME);
  assert.match(await page.textContent('#accelerator'), /^WASM/);
  check();
});

test('a second visit downloads no model', async (t) => {
  const { page, seen, check } = await visit(t, browser);
  await open(page, server.address);
  const downloads = () => seen.filter((url) => url.endsWith('.tflite')).length;
  assert.equal(downloads(), 1);
  await page.reload();
  await settled(page);
  assert.equal(downloads(), 1);
  check();
});

/** The page's error where the server's answer for `file` is `answer`, and whether something was kept. */
async function refused(t, file, answer) {
  const { page, check } = await visit(t, browser, { serviceWorkers: 'block' });
  await page.route(`**/bundle/${file}`, (route) => route.fulfill(answer));
  await open(page, server.address);
  const error = await errorOf(page);
  const kept = await page.evaluate(async () => (await (await caches.open('pecore-bundle')).keys()).map((request) => request.url));
  assert.deepEqual(kept.filter((url) => url.includes(file)), []);
  await page.unroute(`**/bundle/${file}`);
  await open(page, server.address); // and it heals
  assert.equal((await classify(page, picture('chelsea.png'))).length, 5);
  check();
  return error;
}

test('a download that is not the file is refused, and not kept', async (t) => {
  const model = readFileSync(path.join(bundle('tiny'), MODEL));
  const flipped = Buffer.from(model);
  flipped[1000] ^= 1;
  assert.match(await refused(t, MODEL, { body: model.subarray(0, 1e6) }), /tiny_384_fp16\.tflite is truncated, 1000000 of \d+ bytes/);
  assert.match(await refused(t, MODEL, { body: Buffer.concat([model, model]) }), /is longer than/);
  assert.match(await refused(t, MODEL, { body: flipped }), /sha256 differs/);
  assert.match(await refused(t, MODEL, { status: 404 }), /the server says 404/);
  assert.match(await refused(t, 'labels.txt', { status: 500 }), /labels\.txt can’t be downloaded: the server says 500/);
  assert.match(await refused(t, 'manifest.json', { body: '<html>' }), /manifest\.json is not JSON/);
  assert.match(await refused(t, 'manifest.json', { json: { format: 1 } }), /no vision tower/);
});

test('a bundle whose labels are of another size is refused', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  manifest.output.shape = [1, 1024];
  writeFileSync(file, JSON.stringify(manifest));
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assert.match(await errorOf(page), /they have 512 numbers, the images' embeddings 1024/);
  check();
});

test('a bundle without labels and text tower compares pictures', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const { labels, text, ...manifest } = JSON.parse(readFileSync(file));
  writeFileSync(file, JSON.stringify(manifest));
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assert.match(await page.textContent('#hint'), /has no labels/);
  await page.setInputFiles('#file', picture('chelsea.png'));
  await page.getByText('will be compared with this one').waitFor();
  await classify(page, picture('coffee.png'));
  const found = await classify(page, picture('chelsea.png'));
  assert.deepEqual(found.map((row) => row.label), ['coffee.png', 'chelsea.png']);
  assert.ok(Math.abs(found[1].cosine - 1) < 1e-5);
  check();
});

test('what is no image is refused, and the next one taken', async (t) => {
  const { page, check } = await visit(t, browser);
  await open(page, server.address);
  await page.setInputFiles('#file', { name: 'broken.png', mimeType: 'image/png', buffer: Buffer.from('not an image') });
  assert.match(await errorOf(page), /can’t read this as an image: try a JPEG, PNG or WebP file/);
  assertSame(await classify(page, picture('chelsea.png')), wanted.fp16['chelsea.png'], SAME);
  assert.ok(!(await page.locator('#error').isVisible()));
  check();
});

test('without WebGPU the page says so and uses WASM', async (t) => {
  const { page, check } = await visit(t, browser, { serviceWorkers: 'block' });
  await page.route('**/worker.js', async (route) => {
    const response = await route.fetch();
    const body = `Object.defineProperty(WorkerNavigator.prototype, 'gpu', { value: undefined });\n${await response.text()}`;
    await route.fulfill({ response, body });
  });
  await open(page, server.address);
  await chooseAndSettle(page, '#wish', 'webgpu');
  assert.match(await page.textContent('#accelerator'), /^WASM/);
  assert.match(await page.textContent('#reason'), /this browser has no WebGPU/);
  assertSame(await classify(page, picture('chelsea.png')), wanted.fp16['chelsea.png'], SAME);
  check();
});

test('a plain static host will do, in a folder of its own', async (t) => {
  const site = new URL('../../site/', import.meta.url).pathname;
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.wasm': 'application/wasm' };
  const folder = only('tiny', 'fp16');
  const host = createServer((request, response) => {
    const name = new URL(request.url, 'http://x').pathname.replace(/^\/pe\//, '') || 'index.html';
    const file = name.startsWith('bundle/') ? path.join(folder, name.slice(7)) : path.join(site, name);
    response.setHeader('Content-Type', types[path.extname(file)] ?? 'application/octet-stream').end(readFileSync(file));
  });
  await new Promise((resolve) => host.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    host.closeAllConnections();
    host.close();
  });
  const { page, check } = await visit(t, browser);
  await open(page, `http://127.0.0.1:${host.address().port}/pe/`);
  assert.equal(await page.textContent('#accelerator'), 'WASM, 1 thread'); // no threads without COOP and COEP
  assertSame(await classify(page, picture('chelsea.png')), wanted.fp16['chelsea.png'], SAME);
  check();
});

test('a precision that the page does not know is offered last and runs; the self-test runs what has thresholds', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  manifest.files[MODEL].precision = 'fp4';
  manifest.self_test.thresholds = { [MODEL]: { cpu: manifest.self_test.thresholds[MODEL].cpu } };
  writeFileSync(file, JSON.stringify(manifest));
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assert.deepEqual(await page.$$eval('#weights option', (options) => options.map(({ value }) => value)), ['auto', 'int8', 'fp4']);
  await chooseAndSettle(page, '#weights', 'fp4');
  assertSame(await classify(page, picture('chelsea.png')), wanted.fp16['chelsea.png'], SAME);
  await open(page, `${own.address}?selftest`);
  await page.waitForSelector('#report:visible', { timeout: 120_000 });
  assert.match(await page.textContent('#gates'), /WASM/);
  assert.equal(await page.textContent('#verdict'), 'Everything that ran passed.');
  assert.equal(await page.locator('#gates tr').count(), 1);
  check();
});

test('a bundle that takes two pictures at once is refused', async (t) => {
  const folder = copyOf('tiny');
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(file));
  manifest.input.shape[0] = 2;
  writeFileSync(file, JSON.stringify(manifest));
  const own = await serve(folder);
  t.after(own.stop);
  const { page, check } = await visit(t, browser);
  await open(page, own.address);
  assert.match(await errorOf(page), /takes 2 pictures at once/);
  check();
});

/** The report of a bundle's self-test, and the gates that Python makes of it. */
async function selfTested(t, name, address) {
  const { page, check } = await visit(t, browser);
  await open(page, `${address}?selftest`);
  await page.waitForSelector('#report:visible', { timeout: 120_000 });
  await page.screenshot({ path: path.join(work, `selftest_${name}.png`), fullPage: true });
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#report')]);
  const file = path.join(work, `device_report_${name}.json`);
  await download.saveAs(file);
  check();

  const report = JSON.parse(readFileSync(file));
  const { code, stdout, stderr } = await pecore('validate', copyOf(name), '--device-report', file, '--json');
  assert.equal(code, report.verdict === 'passed' ? 0 : 1, stderr);
  const judged = JSON.parse(stdout).gates;
  assert.deepEqual(judged.map((gate) => gate.outcome), report.gates.map((gate) => gate.outcome));
  for (const [i, gate] of report.gates.entries()) {
    for (const figure of gate.figures ? ['cosine', 'correlation', 'norm_error', 'max_abs_diff', 'relative_diff'] : []) {
      assert.ok(Math.abs(gate.figures[figure] - judged[i].figures[figure]) < 1e-9, `${gate.backend}: ${figure}`);
    }
  }
  return report;
}

test('the self-test’s report is what Python makes of it', async (t) => {
  const report = await selfTested(t, 'tiny', both.address);
  const ran = report.gates.filter((gate) => gate.outcome !== 'skipped');
  assert.deepEqual(ran.map((gate) => gate.figures.kind), ['cpu', 'gpu fp32', 'cpu', 'gpu fp32']);
  for (const gate of report.gates.filter((g) => g.outcome === 'skipped')) assert.match(gate.detail, /no shader-f16/);
  for (const gate of ran) assert.ok(gate.figures.cosine > 0.999 && gate.figures.later, gate.detail);
});

test('so is the report of a bundle of feature maps, two pictures at once', async (t) => {
  const own = await serve(bundle('features'));
  t.after(own.stop);
  const { gates } = await selfTested(t, 'features', own.address);
  const judged = gates.map(({ outcome, figures }) => [figures?.kind, outcome]);
  assert.deepEqual(judged, [['cpu', 'passed'], ['gpu fp32', 'passed'], [undefined, 'skipped']]);
  assert.ok('relative_diff' in gates[0].thresholds);
});
