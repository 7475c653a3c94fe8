// Runs .tflite files on the page's own worker in Chromium, on WASM, for `python -m benchmarks.browser`: a request a line on stdin, its
// answer a line on stdout, both JSON.
//
//   node bench.js FOLDER threads      or `alone`: as on a host without COOP and COEP
//   {"open": "a.tflite"}              {"threads": 2, "build": "litert_wasm_threaded_internal.wasm"}
//   {"run": "a.tflite"}               {"ms": 12.3, "output": [...]}
//
// FOLDER has the files, and image.f32, the input. "as-is/a.tflite" is the file with its float16 constants left as they are.
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

const [folder, threads] = process.argv.slice(2);
const site = fileURLToPath(new URL('site/', import.meta.url));
const AS_IS = 'as-is/'; // before a path: the same site, whose unpack.js does nothing
const NOTHING = 'export const unpackHalves = (bytes) => bytes;';
const TYPES = { '.js': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };
const ISOLATED = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

const builds = [];
const host = createServer((request, response) => {
  const asked = request.url.slice(1);
  const name = asked.replace(AS_IS, '');
  const type = TYPES[path.extname(name)] ?? (name ? 'application/octet-stream' : 'text/html');
  response.writeHead(200, { 'Content-Type': type, ...(threads === 'threads' ? ISOLATED : {}) });
  if (name.endsWith('.wasm')) builds.push(path.basename(name));
  if (!name) return response.end('<!doctype html><title>pecore</title>');
  if (asked === `${AS_IS}unpack.js`) return response.end(NOTHING);
  createReadStream(name.startsWith('files/') ? path.join(folder, name.slice(6)) : path.join(site, name))
    .on('error', () => response.destroy())
    .pipe(response);
});
await new Promise((resolve) => host.listen(0, '127.0.0.1', resolve));
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const page = await browser.newPage();
await page.goto(`http://127.0.0.1:${host.address().port}/`);
await page.evaluate(async () => {
  globalThis.read = async (name) => (await fetch(`/files/${name}`)).arrayBuffer();
  globalThis.image = new Float32Array(await read('image.f32'));
  globalThis.engines = {};
});

const tasks = {
  async open(name) {
    const opened = await page.evaluate(async ([file, base, of]) => {
      const { openOn } = await import(`${base}engine.js`);
      const side = Math.sqrt(image.length / 3);
      const manifest = { input: { name: 'image', shape: [1, 3, side, side] }, output: { name: 'embedding' } };
      engines[of] = await openOn({ accelerator: 'wasm', precision: 'fp32' }, await read(file), manifest);
      return { threads: engines[of].threads };
    }, [name.replace(AS_IS, ''), name.startsWith(AS_IS) ? `/${AS_IS}` : '/', name]);
    return { ...opened, build: builds.at(-1), browser: browser.version() };
  },
  run: (name) =>
    page.evaluate(async (of) => {
      const { output, ms } = await engines[of].run(image);
      return { ms, output: [...output] };
    }, name),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [[task, name]] = Object.entries(JSON.parse(line));
  console.log(JSON.stringify(await tasks[task](name).catch((error) => ({ error: error.message }))));
}
await browser.close();
host.closeAllConnections();
host.close();
