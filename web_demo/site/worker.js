// The model's thread: decodes and prepares pictures and runs the .tflite, so that the page never waits for either.
//
// A classic worker, because LiteRT.js loads its WebAssembly with importScripts; modules are imported all the same.

const LITERT = new URL('vendor/litert/', self.location.href).href;
const modules = Promise.all([import('./accelerator.js'), import('./preprocess.js'), import('./vendor/litert/litert.js')]);
let opened; // {model, litert, input, output, preprocessing}

const tasks = {
  async probe() {
    const [{ probe }] = await modules;
    return probe();
  },

  /** Load LiteRT.js and compile `bytes` strictly for one accelerator. */
  async open({ bytes, accelerator, precision, input, output, preprocessing }) {
    const [, , litert] = await modules;
    const threads = accelerator === 'wasm' && self.crossOriginIsolated && (await litert.supportsFeature('relaxedSimd'));
    self.Module = { locateFile: (file) => LITERT + file, mainScriptUrlOrBlob: `${LITERT}litert_wasm_threaded_internal.js` };
    const runtime = await litert.loadLiteRt(LITERT, { threads });
    const model = await litert.loadAndCompile(new Uint8Array(bytes), { accelerator, gpuOptions: { precision } });
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

  /** A picture (a Blob or an ImageBitmap) through the model. */
  async embed({ picture }) {
    const { input, preprocessing } = opened;
    const [, { dropAlpha, normalise, readResize, resize }] = await modules;
    const size = input.shape.at(-1) === 3 ? input.shape[1] : input.shape.at(-1);
    const started = performance.now();
    const { rgba, width, height } = await decode(picture);
    const square = resize(dropAlpha(rgba), width, height, size, readResize(preprocessing));
    const tensor = normalise(square, size, input.layout, input.range);
    const preparing = performance.now() - started;
    return { ...(await tasks.run({ tensor })), preparing, width, height };
  },
};

/** Pixels as they are in the file, upright, on white: its colour profile is ignored (docs/preprocessing.md). */
async function decode(picture) {
  const options = { imageOrientation: 'from-image', colorSpaceConversion: 'none' };
  const bitmap = picture instanceof ImageBitmap ? picture : await createImageBitmap(picture, options).catch(() => {
    throw new Error('The browser can’t read this as an image: try a JPEG, PNG or WebP file.');
  });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (!canvas) throw new Error(`The browser can’t draw an image of ${width} × ${height} pixels: give a smaller one.`);
  canvas.fillStyle = 'white';
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { rgba: canvas.getImageData(0, 0, width, height).data, width, height };
}

let last = Promise.resolve(); // one task after another
self.addEventListener('message', ({ data: { id, task, ...given } }) => {
  last = last.then(() => tasks[task](given)).then(
    (result) => self.postMessage({ id, result }),
    (error) => self.postMessage({ id, error: String(error?.message ?? error) }), // WebAssembly throws numbers, too
  );
});
