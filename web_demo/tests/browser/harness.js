// Starts the server and the browser, and watches what the page does.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

export const root = fileURLToPath(new URL('../../../', import.meta.url));
export const work = path.resolve(root, process.env.WEB_WORK ?? 'build/web');
const bin = path.resolve(root, process.env.BIN ?? '.venv/bin');

const FLAGS = [
  '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
];

export const picture = (name) => path.join(work, 'pictures', name);
export const bundle = (name) => path.join(work, name);
export const expected = (name) => JSON.parse(readFileSync(path.join(work, `${name}.json`), 'utf8'));

/** A bundle that may be changed. */
export function copyOf(name) {
  const folder = path.join(mkdtempSync(path.join(tmpdir(), 'pecore-web-')), name);
  cpSync(bundle(name), folder, { recursive: true });
  return folder;
}

/** `pecore ARGS` to its end. */
export async function pecore(...args) {
  const child = spawn(path.join(bin, 'python'), ['-c', 'from pecore.cli import main; main()', ...args], { cwd: root });
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr']) child[stream].on('data', (data) => (said[stream] += data));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, ...said })));
}

/** `pecore serve` on a free port: {address, stop}. */
export async function serve(folder) {
  const child = spawn(path.join(bin, 'python'), ['-c', 'from pecore.cli import main; main()', 'serve', folder, '--port', '0'], { cwd: root });
  const ended = new Promise((resolve) => child.on('close', resolve));
  const stop = () => child.kill('SIGINT') && ended;
  let errors = '';
  child.stderr.on('data', (data) => (errors += data));
  child.on('error', (error) => (errors += error.message));
  for await (const line of createInterface({ input: child.stdout })) {
    const address = /http:\/\/127\.0\.0\.1:\d+\//.exec(line)?.[0];
    if (address) return { address, stop };
  }
  throw new Error(`pecore serve ended: ${errors}`);
}

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
}

/** A fresh visitor: no cache, no service worker. `check` fails if a request left this machine or the page broke. */
export async function visit(t, browser, options = {}) {
  const context = await browser.newContext(options);
  t.after(() => context.close());
  const page = await context.newPage();
  const seen = [];
  const problems = [];
  context.on('request', (request) => seen.push(request.url()));
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (/Content Security Policy|Uncaught/.test(message.text())) problems.push(message.text());
  });
  const check = () => {
    assert.ok(seen.length > 0);
    assert.deepEqual(seen.filter((url) => !url.startsWith('blob:') && new URL(url).hostname !== '127.0.0.1'), []);
    assert.deepEqual(problems, []);
  };
  return { page, seen, check };
}

/** Until the page has loaded what it is loading, or said why not. */
export async function settled(page) {
  await page.waitForFunction(() => document.getElementById('loading').hidden, null, { timeout: 120_000 });
}

export async function open(page, address) {
  await page.goto(address);
  await settled(page);
}

export async function chooseAndSettle(page, selector, value) {
  await page.selectOption(selector, value);
  await settled(page);
}

/** What the page answers to a file. */
export async function classify(page, file) {
  await page.evaluate(() => document.getElementById('results').replaceChildren());
  await page.setInputFiles('#file', file);
  return answer(page);
}

export async function answer(page) {
  await page.waitForSelector('#results li', { timeout: 120_000 });
  return page.$$eval('#results li', (rows) =>
    rows.map((row) => ({ label: row.children[1].textContent, cosine: Number(row.dataset.cosine), probability: Number(row.dataset.probability) })),
  );
}

/** The same first label, and every score within `tolerance`, label by label. */
export function assertSame(found, wanted, tolerance) {
  assert.equal(found[0].label, wanted[0].label);
  assert.equal(found.length, wanted.length);
  for (const { label, cosine, probability } of wanted) {
    const mine = found.find((row) => row.label === label);
    assert.ok(mine, `${label} is not among ${found.map((row) => row.label)}`);
    assert.ok(Math.abs(mine.cosine - cosine) <= tolerance, `cosine of ${label}: ${mine.cosine}, not ${cosine}`);
    assert.ok(Math.abs(mine.probability - probability) <= tolerance, `probability of ${label}: ${mine.probability}, not ${probability}`);
  }
}

export const errorOf = (page) => page.locator('#error:visible').textContent({ timeout: 60_000 });
