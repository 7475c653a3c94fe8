// Which accelerator a model runs on, and why: said on the page.

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|software|basic render/i;

/** What a WebGPU adapter is, as plain data, or null where there is none; `webgpu` says whether the browser has WebGPU. */
export async function probe(gpu = navigator.gpu) {
  if (!gpu) return { webgpu: false, adapter: null };
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (!adapter) return { webgpu: true, adapter: null };
  const info = adapter.info ?? {};
  const name = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(' ') || 'not named by the browser';
  const software = Boolean(info.isFallbackAdapter ?? adapter.isFallbackAdapter) || SOFTWARE.test(name);
  return { webgpu: true, adapter: { name, software, half: adapter.features.has('shader-f16') } };
}

/**
 * @param {'auto'|'webgpu'|'wasm'} wish
 * @param {Awaited<ReturnType<typeof probe>>} found
 * @returns {{accelerator: 'webgpu'|'wasm', precision: 'fp16'|'fp32', reason: string}}
 */
export function choose(wish, { webgpu, adapter }) {
  const wasm = (reason) => ({ accelerator: 'wasm', precision: 'fp32', reason });
  if (wish === 'wasm') return wasm('as chosen');
  if (!webgpu) return wasm('this browser has no WebGPU here');
  if (!adapter) return wasm('WebGPU finds no GPU on this machine');
  if (adapter.software && wish === 'auto') return wasm(`the only WebGPU adapter computes in software (${adapter.name}) and would be slower`);
  const precision = adapter.half ? 'fp16' : 'fp32';
  const why = [adapter.software && 'in software', !adapter.half && 'no shader-f16'].filter(Boolean);
  return { accelerator: 'webgpu', precision, reason: `${adapter.name}${why.length ? ` (${why.join(', ')})` : ''}` };
}
