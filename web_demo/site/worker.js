// The model's thread: decodes and prepares pictures and runs the .tflite, so that the page never waits for either.
//
// A classic worker, because LiteRT.js loads its WebAssembly with importScripts; modules are imported all the same.

const LITERT = new URL('vendor/litert/', self.location.href).href;
const modules = Promise.all([import('./accelerator.js'), import('./preprocess.js'), import('./vendor/litert/litert.js'), import('./unpack.js')]);
let opened; // {model, litert, input, output, preprocessing}
let tokenize; // of a text tower

const tasks = {
  async probe() {
    const [{ probe }] = await modules;
    return probe();
  },

  /** Load LiteRT.js and compile `bytes` strictly for one accelerator. */
  async open({ bytes, accelerator, precision, input, output, preprocessing }) {
    const [, , litert, { unpackHalves }] = await modules;
    const threads = accelerator === 'wasm' && self.crossOriginIsolated && (await litert.supportsFeature('relaxedSimd'));
    self.Module = { locateFile: (file) => LITERT + file, mainScriptUrlOrBlob: `${LITERT}litert_wasm_threaded_internal.js` };
    const runtime = await litert.loadLiteRt(LITERT, { threads });
    const model = await litert.loadAndCompile(new Uint8Array(accelerator === 'wasm' ? unpackHalves(bytes) : bytes), { accelerator, gpuOptions: { precision } });
    if (model.options.accelerator !== accelerator || (accelerator === 'webgpu' && !model.isFullyAccelerated)) {
      throw new Error('WebGPU can’t run the whole graph');
    }
    opened = { model, litert, input, output, preprocessing };
    return { threads: threads ? runtime.liteRtWasm.getThreadCount() : 1 };
  },

  /** `tensor` through the model: its output, and the milliseconds until it was read. */
  async run({ tensor }) {
    const { model, litert, input, output } = opened;
    const started = performance.now();
    const given = new litert.Tensor(tensor, input.shape);
    const results = await model.run({ [input.name]: given });
    const found = await results[output.name].data();
    const ms = performance.now() - started;
    given.delete();
    Object.values(results).forEach((result) => result.delete());
    return { output: found, ms };
  },

  /** A text tower on WASM, the CPU that it is made for, with its tokenizer; `content` is that of tokenizer.json. */
  async openText({ bytes, content, input, output }) {
    const [{ openTokenizer }, entities] = await Promise.all([
      import('./tokenizer.js'),
      fetch(new URL('entities.json', self.location.href)).then((response) => response.json()),
    ]);
    tokenize = openTokenizer(content, entities, input.shape[1]);
    return tasks.open({ bytes, accelerator: 'wasm', precision: 'fp32', input, output });
  },

  /** Embeddings of texts, a row each; `cut` says which of them are longer than the model reads. */
  async embedTexts({ texts }) {
    const { input } = opened;
    const rows = [];
    const cut = [];
    for (const text of texts) {
      const { ids, whole } = tokenize(text);
      const tensor = new Int32Array(input.shape[1]);
      tensor.set(ids);
      rows.push((await tasks.run({ tensor })).output);
      cut.push(!whole);
    }
    return { rows, cut };
  },

  /** A picture (a Blob or an ImageBitmap) through the model; and a small one of it, `small` pixels at most, where asked. */
  async embed({ picture, small }) {
    const { input, preprocessing } = opened;
    const [, { dropAlpha, normalise, readResize, resize }] = await modules;
    const size = input.shape.at(-1) === 3 ? input.shape[1] : input.shape.at(-1);
    const started = performance.now();
    const { rgba, width, height, thumbnail } = await decode(picture, small);
    const square = resize(dropAlpha(rgba), width, height, size, readResize(preprocessing));
    const tensor = normalise(square, size, input.layout, input.range);
    const preparing = performance.now() - started;
    return { ...(await tasks.run({ tensor })), preparing, width, height, thumbnail };
  },
};

/** Pixels as they are in the file, upright, on white: its colour profile is ignored (docs/preprocessing.md). */
async function decode(picture, small) {
  const options = { imageOrientation: 'from-image', colorSpaceConversion: 'none' };
  const bitmap = picture instanceof ImageBitmap ? picture : await createImageBitmap(picture, options).catch(() => {
    throw Object.assign(new Error('The browser can’t read this as an image: try a JPEG, PNG or WebP file.'), { kind: 'unreadable' });
  });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (!canvas) throw Object.assign(new Error(`The browser can’t draw an image of ${width} × ${height} pixels: give a smaller one.`), { kind: 'unreadable' });
  canvas.fillStyle = 'white';
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  const thumbnail = small && (await shrink(bitmap, small));
  bitmap.close();
  return { rgba: canvas.getImageData(0, 0, width, height).data, width, height, thumbnail };
}

/** For looking at, so any resize will do. */
function shrink(bitmap, small) {
  const scale = Math.min(1, small / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const drawing = canvas.getContext('2d');
  drawing.fillStyle = 'white';
  drawing.fillRect(0, 0, canvas.width, canvas.height);
  drawing.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: 'image/jpeg', quality: 0.8 });
}

let last = Promise.resolve(); // one task after another
self.addEventListener('message', ({ data: { id, task, ...given } }) => {
  last = last.then(() => tasks[task](given)).then(
    (result) => self.postMessage({ id, result }),
    (error) => self.postMessage({ id, error: String(error?.message ?? error), kind: error?.kind }), // WebAssembly throws numbers, too
  );
});
