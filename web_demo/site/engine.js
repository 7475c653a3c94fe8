// The page's side of worker.js: one worker for one compiled model, and the choice of its accelerator.

import { choose } from './accelerator.js';

class Engine {
  #worker = new Worker(new URL('worker.js', import.meta.url));
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.#worker.addEventListener('message', ({ data: { id, result, error, kind } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(Object.assign(new Error(error), { kind }));
    });
    this.#worker.addEventListener('error', (event) => {
      this.#waiting.forEach(({ reject }) => reject(new Error(event.message || 'the worker could not be started')));
      this.#waiting.clear();
    });
  }

  #ask(task, given = {}, transfer = []) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(this.#next, { resolve, reject });
      this.#worker.postMessage({ id: this.#next++, task, ...given }, transfer);
    });
  }

  probe() {
    return this.#ask('probe');
  }

  /** @param {ArrayBuffer} bytes of a .tflite; given away */
  async open(bytes, manifest, { accelerator, precision }) {
    const { input, output, preprocessing } = manifest;
    const given = { bytes, accelerator, precision, input, output, preprocessing };
    Object.assign(this, { accelerator, precision }, await this.#ask('open', given, [bytes]));
  }

  /** @returns {Promise<{output: Float32Array, ms: number}>} */
  run(tensor) {
    return this.#ask('run', { tensor });
  }

  /**
   * @param {Blob|ImageBitmap} picture a bitmap is given away
   * @param {number} [small] largest side of a thumbnail, where one is wanted
   * @returns {Promise<{output: Float32Array, ms: number, preparing: number, width: number, height: number, thumbnail?: Blob}>}
   */
  embed(picture, small) {
    return this.#ask('embed', { picture, small }, picture instanceof ImageBitmap ? [picture] : []);
  }

  /** @param {ArrayBuffer} bytes of a text tower's .tflite; given away. `content` of tokenizer.json. */
  openText(bytes, content, { input, output }) {
    return this.#ask('openText', { bytes, content, input, output }, [bytes]);
  }

  /** @returns {Promise<{rows: Float32Array[], cut: boolean[]}>} */
  embedTexts(texts) {
    return this.#ask('embedTexts', { texts });
  }

  close() {
    this.#worker.terminate();
  }
}

/** A text tower, in a worker of its own: words are looked for while pictures are being read. */
export async function openText(bytes, content, section) {
  const engine = new Engine();
  try {
    await engine.openText(bytes, content, section);
    return engine;
  } catch (error) {
    engine.close();
    throw error;
  }
}

/** What WebGPU offers to a worker here. */
export async function probeWorker() {
  const engine = new Engine();
  try {
    return await engine.probe();
  } finally {
    engine.close();
  }
}

/**
 * A model on exactly this accelerator.
 * @param {ArrayBuffer} bytes given away
 * @param {{accelerator: 'webgpu'|'wasm', precision: 'fp16'|'fp32'}} choice
 */
export async function openOn(choice, bytes, manifest) {
  const engine = new Engine();
  try {
    await engine.open(bytes, manifest, choice);
    return engine;
  } catch (error) {
    engine.close();
    throw error;
  }
}

/**
 * A model on the accelerator that is wished for, or, where that fails, on WASM; `reason` says which and why, `picked` is the file.
 * @template P
 * @param {'auto'|'webgpu'|'wasm'} wish
 * @param {(accelerator: 'webgpu'|'wasm') => P} pick the file for an accelerator
 * @param {(picked: P) => Promise<ArrayBuffer>} read that file
 */
export async function open(wish, pick, read, manifest) {
  let choice = choose(wish, await probeWorker());
  let picked = pick(choice.accelerator);
  const bytes = await read(picked);
  let engine;
  try {
    engine = await openOn(choice, bytes, manifest);
  } catch (error) {
    if (choice.accelerator === 'wasm') throw new Error(`LiteRT.js can’t run this model here: ${error.message}`);
    choice = { ...choose('wasm', {}), reason: `WebGPU failed: ${error.message}` };
    picked = pick('wasm');
    engine = await openOn(choice, await read(picked), manifest);
  }
  return Object.assign(engine, { reason: choice.reason, picked });
}
