// B16, 186 MB, on WASM; and the pictures of the page.
import path from 'node:path';
import { after, before, test } from 'node:test';

import { assertSame, classify, expected, launch, only, open, picture, serve, visit, work } from './harness.js';

const SAME = 1e-4;
const wanted = expected('b16').fp16;
let browser;
let server;

before(async () => {
  server = await serve(only('b16', 'fp16'));
  browser = await launch();
});

after(() => Promise.all([browser?.close(), server?.stop()]));

test('scores are Python’s', async (t) => {
  const { page, check } = await visit(t, browser, { viewport: { width: 1180, height: 900 }, deviceScaleFactor: 1 });
  await open(page, server.address);
  for (const name of ['astronaut.png', 'coffee.png', 'chelsea.png']) assertSame(await classify(page, picture(name)), wanted[name], SAME);
  await page.screenshot({ path: path.join(work, 'desktop.png') });
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.screenshot({ path: path.join(work, 'dark.png') });
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: path.join(work, 'phone.png'), fullPage: true });
  check();
});
