// A bundle's folder: its manifest, and its files, downloaded once, checked by size and sha256, and kept by content.

const FOLDER = new URL('bundle/', import.meta.url);
const CACHE = 'pecore-bundle';
const NEEDED = ['files', 'input', 'output', 'variant', 'weights'];

/** @returns {Promise<object>} the manifest of the bundle that this page is served with */
export async function readManifest() {
  const response = await get('manifest.json');
  const manifest = await response.json().catch(() => {
    throw new Error('The bundle’s manifest.json is not JSON: convert the model again.');
  });
  const missing = NEEDED.filter((key) => !manifest?.[key]);
  if (missing.length) throw new Error(`The bundle holds no vision tower (its manifest lacks ${missing.join(', ')}): make one with “pecore convert”.`);
  return manifest;
}

/**
 * A file that the manifest lists, from the cache or the server.
 * @param {{bytes: number, sha256: string}} entry
 * @param {(done: number, total: number) => void} progress in bytes, while it is downloaded
 * @returns {Promise<ArrayBuffer>}
 */
export async function readFile(name, entry, progress = () => {}) {
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  const key = keyOf(name, entry);
  const kept = await cache?.match(key);
  if (kept) {
    const data = await kept.arrayBuffer();
    if ((await wrong(data, entry)) === null) return data;
    await cache.delete(key);
  }
  const data = await download(name, entry, progress);
  const problem = await wrong(data, entry);
  if (problem) throw new Error(`${name} ${problem}: it was not kept. Reload the page to try again.`);
  await cache?.put(key, new Response(data)).catch(() => {}); // no room: it will be downloaded again next time
  return data;
}

/** Forget the files of other bundles. */
export async function forgetOthers(manifest) {
  const cache = await globalThis.caches?.open(CACHE).catch(() => undefined);
  const own = [manifest.files, manifest.labels?.files ?? {}, manifest.text?.files ?? {}, manifest.self_test ?? {}].flatMap(Object.values);
  const digests = new Set(own.map((entry) => entry.sha256));
  for (const request of (await cache?.keys()) ?? []) {
    if (!digests.has(new URL(request.url).searchParams.get('sha256'))) await cache.delete(request);
  }
}

const keyOf = (name, { sha256 }) => `${new URL(encodeURIComponent(name), FOLDER)}?sha256=${sha256}`;

async function get(name) {
  const response = await fetch(new URL(encodeURIComponent(name), FOLDER)).catch(() => {
    throw new Error(`${name} can’t be downloaded: the server does not answer. Start it again with “pecore serve”.`);
  });
  if (!response.ok) throw new Error(`${name} can’t be downloaded: the server says ${response.status} ${response.statusText}.`);
  return response;
}

async function download(name, { bytes }, progress) {
  const reader = (await get(name)).body.getReader();
  const data = new Uint8Array(bytes);
  let done = 0;
  progress(done, bytes);
  for (;;) {
    const step = await reader.read().catch((error) => {
      throw new Error(`The download of ${name} broke off after ${done} of ${bytes} bytes (${error.message}): it was not kept. Reload the page to try again.`);
    });
    if (step.done) break;
    if (done + step.value.length > bytes) {
      await reader.cancel();
      throw new Error(`${name} is longer than the ${bytes} bytes its manifest says: it is not this bundle’s file. Convert the model again.`);
    }
    data.set(step.value, done);
    done += step.value.length;
    progress(done, bytes);
  }
  return done === bytes ? data.buffer : data.buffer.slice(0, done);
}

async function wrong(data, { bytes, sha256 }) {
  if (data.byteLength !== bytes) return `is truncated, ${data.byteLength} of ${bytes} bytes`;
  if (!globalThis.crypto?.subtle) throw new Error('This page needs https, or the address 127.0.0.1: the browser checks no files elsewhere.');
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return found === sha256 ? null : 'is not the file its manifest means (sha256 differs)';
}
