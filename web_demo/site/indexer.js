// Embeds the photographs of a folder that are new or have changed, one after the other, and notices those that went.

const RECENT = 20; // photographs that the time left is reckoned from

/** Where the loop waits while it is paused, and learns that it is to end. */
export class Gate {
  #open = Promise.resolve();
  #release = () => {};
  paused = false;
  stopped = false;

  pause() {
    if (this.paused) return;
    this.paused = true;
    this.#open = new Promise((resolve) => (this.#release = resolve));
  }

  resume() {
    this.paused = false;
    this.#release();
  }

  stop() {
    this.stopped = true;
    this.resume();
  }

  get passed() {
    return this.#open;
  }
}

/**
 * @param {{path: string, file: () => Promise<File>}[]} entries what the folder holds
 * @param {Map<string, {size: number, modified: number}>} known what is kept already, by path; kept up to date
 * @param {object} work
 * @param {(file: File) => Promise<{output: Float32Array, thumbnail: Blob}>} work.embed throws an error with `kind` `unreadable`
 *   for what is no picture
 * @param {(photo: object, thumbnail?: Blob) => Promise<void>} work.save
 * @param {(paths: string[]) => Promise<void>} work.forget
 * @param {(state: {done: number, total: number, secondsLeft: number|null}) => void} work.progress
 * @param {Gate} work.gate
 * @param {() => number} [work.now] milliseconds
 * @returns {Promise<{embedded: number, unreadable: number, gone: number, kept: number}>} `gone`: deleted since they were kept, or
 *   since the folder was listed
 * @throws what stands in the way of all of them: a folder that may no longer be read, a full disk, a model that fails
 */
export async function indexPhotos(entries, known, { embed, save, forget, progress, gate, now = () => performance.now() }) {
  const listed = new Set(entries.map(({ path }) => path));
  const vanished = [...known.keys()].filter((path) => !listed.has(path));
  const counts = { embedded: 0, unreadable: 0, gone: vanished.length, kept: 0 };
  await drop(vanished);
  const times = [];
  for (let done = 0; done < entries.length; done++) {
    const mean = times.length ? times.reduce((sum, ms) => sum + ms, 0) / times.length : null;
    progress({ done, total: entries.length, secondsLeft: mean === null ? null : (mean * (entries.length - done)) / 1000 });
    await gate.passed;
    if (gate.stopped) return counts;
    const started = now();
    if (await one(entries[done])) times.push(now() - started);
    if (times.length > RECENT) times.shift();
  }
  progress({ done: entries.length, total: entries.length, secondsLeft: 0 });
  return counts;

  /** Whether there was something to do. */
  async function one({ path, file: read }) {
    const file = await present(read);
    if (!file) return lost(path);
    const about = { path, size: file.size, modified: file.lastModified };
    const before = known.get(path);
    if (before?.size === about.size && before.modified === about.modified) {
      counts.kept++;
      return false;
    }
    try {
      const { output, thumbnail } = await embed(file);
      await save({ ...about, row: output }, thumbnail);
      counts.embedded++;
    } catch (error) {
      if (error.kind !== 'unreadable') throw error;
      if (!(await present(() => file.slice(0, 1).arrayBuffer()))) return lost(path); // it went while it was read
      await save({ ...about, problem: error.message });
      counts.unreadable++;
    }
    known.set(path, about);
    return true;
  }

  async function lost(path) {
    counts.gone++;
    if (known.has(path)) await drop([path]);
    return true;
  }

  async function drop(paths) {
    if (paths.length) await forget(paths);
    paths.forEach((path) => known.delete(path));
  }
}

/** What `read` gives, or null where the file is gone, or is another one than was chosen. */
async function present(read) {
  try {
    return await read();
  } catch (error) {
    if (error.name === 'NotFoundError' || error.name === 'NotReadableError') return null;
    throw error;
  }
}

/** Seconds in words, no more exact than they are known. */
export function timeLeft(seconds) {
  if (seconds < 60) return seconds < 10 ? 'a few seconds left' : `about ${Math.ceil(seconds / 10) * 10} seconds left`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `about ${minutes} minute${minutes === 1 ? '' : 's'} left`;
  return `about ${Math.round(minutes / 60)} hours left`;
}
