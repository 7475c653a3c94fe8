// A bundle's text tower: fetched when it is first asked for, and kept like the model.

import { readFile } from './bundle.js';
import { openText } from './engine.js';
import { mismatch } from './labels.js';
import { endStage, megabytes, showStage } from './page.js';

const TOKENIZER_FILE = 'tokenizer.json';
const PREFERRED = ['int8', 'fp16', 'fp32']; // pecore/precision.py's order for text towers
const KEPT = 2000; // embeddings of texts

/** Why this bundle takes no words, or null where it does. */
export function noWords(manifest) {
  const { text, variant } = manifest;
  if (!text) return `This bundle has no text tower: “pecore convert --size ${variant.size} --tower text” adds one.`;
  const problem = mismatch(text.weights, manifest, text.output.shape.at(-1));
  return problem && `This bundle’s text tower can’t be compared with its model: ${problem}. Convert both from one checkpoint.`;
}

export class TextTower {
  #manifest;
  #opening; // a promise of the engine
  #kept = new Map(); // text -> {row, cut}

  constructor(manifest) {
    this.#manifest = manifest;
  }

  /** What it takes to have it here, in words. */
  get size() {
    return `${megabytes(this.#files().reduce((sum, { bytes }) => sum + bytes, 0))} MB`;
  }

  /**
   * @param {string[]} texts
   * @returns {Promise<{rows: Float32Array[], cut: boolean[]}>} embeddings of norm 1; `cut`: longer than the model reads
   */
  async embed(texts) {
    const missing = [...new Set(texts)].filter((text) => !this.#kept.has(text));
    if (missing.length) {
      const { rows, cut } = await (await this.#open()).embedTexts(missing);
      missing.forEach((text, i) => this.#kept.set(text, { row: rows[i], cut: cut[i] }));
    }
    const found = texts.map((text) => this.#kept.get(text));
    for (const text of this.#kept.keys()) {
      if (this.#kept.size <= KEPT) break;
      this.#kept.delete(text);
    }
    return { rows: found.map(({ row }) => row), cut: found.map(({ cut }) => cut) };
  }

  #files() {
    const { files } = this.#manifest.text;
    const models = Object.entries(files).filter(([name]) => name.endsWith('.tflite')).map(([name, entry]) => ({ name, ...entry }));
    const model = PREFERRED.map((precision) => models.find((file) => file.precision === precision)).find(Boolean) ?? models[0];
    return [model, { name: TOKENIZER_FILE, ...files[TOKENIZER_FILE] }];
  }

  #open() {
    this.#opening ??= this.#read().catch((error) => {
      this.#opening = undefined; // the next one to ask tries again
      throw error;
    }).finally(endStage);
    return this.#opening;
  }

  async #read() {
    const read = (file) => readFile(file.name, file, (done, total) => showStage(`Downloading ${file.name}, for words`, done, total));
    const [model, tokenizer] = this.#files();
    showStage('Loading the text tower');
    const content = JSON.parse(new TextDecoder().decode(await read(tokenizer)));
    const bytes = await read(model);
    showStage('Compiling the text tower');
    return openText(bytes, content, this.#manifest.text);
  }
}
