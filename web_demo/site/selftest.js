// ?selftest: the bundle's reference through this browser, and a report of it that `pecore validate --device-report` judges.

import { readFile } from './bundle.js';
import { openOn, probeWorker } from './engine.js';
import { apart, beyond, compare } from './figures.js';
import { readNpz } from './npz.js';
import { $, endStage, make, median, nameOf, showStage } from './page.js';
import { runAll } from './runs.js';
import { LITERT_VERSION } from './vendor/litert/version.js';

const RUNS = 10;
const ENOUGH = 5000; // ms: a software adapter takes a minute for one run

const CHOICES = [
  { kind: 'cpu', accelerator: 'wasm', precision: 'fp32' },
  { kind: 'gpu fp32', accelerator: 'webgpu', precision: 'fp32' },
  { kind: 'gpu fp16', accelerator: 'webgpu', precision: 'fp16' },
];

export async function start(manifest) {
  $('selftest').hidden = false;
  if (!manifest.self_test) throw new Error('This bundle carries no self-test: convert the model again with this version of “pecore convert”.');
  const { reference, thresholds } = manifest.self_test;
  showStage('Reading the reference');
  const arrays = await readNpz(await readFile(reference.name, reference));
  const [inputs, outputs] = [manifest.input.name, manifest.output.name].map((name) => apart(arrays[name].data, arrays[name].shape[0]));
  const found = await probeWorker();
  const gates = [];
  for (const [name, limits] of Object.entries(thresholds)) {
    for (const choice of CHOICES.filter(({ kind }) => kind in limits)) {
      const gate = await judge(manifest, name, limits[choice.kind], choice, found, inputs, outputs);
      gates.push(gate);
      $('gates').append(row(gate));
    }
  }
  endStage();
  finish(manifest, gates, found);
}

async function judge(manifest, name, limits, choice, found, inputs, outputs) {
  const { kind, accelerator, precision } = choice;
  const adapter = found.adapter && `${found.adapter.name}${found.adapter.software ? ' (software)' : ''}`;
  const backend = accelerator === 'wasm' ? 'LiteRT.js WASM' : `LiteRT.js WebGPU ${precision} on ${adapter ?? 'no adapter'}`;
  const gate = { gate: 'device', subject: name, backend };
  const skip = (detail) => ({ ...gate, outcome: 'skipped', detail });
  if (accelerator === 'webgpu' && !found.webgpu) return skip('this browser has no WebGPU here');
  if (accelerator === 'webgpu' && !found.adapter) return skip('WebGPU finds no GPU on this machine');
  if (precision === 'fp16' && !found.adapter.half) return skip('the adapter has no shader-f16');

  const entry = manifest.files[name];
  const about = { sha256: entry.sha256, kind };
  let engine;
  try {
    const bytes = await readFile(name, entry, (done, total) => showStage(`Downloading ${name}`, done, total));
    showStage(`${name} on ${backend}`);
    engine = await openOn(choice, bytes, manifest);
    const { made, later, first, times } = await runAll(engine, inputs, RUNS, ENOUGH);
    const figures = compare([...outputs, outputs[0]], [...made, later], manifest.output.shape[0]);
    const missed = beyond(figures, limits);
    return {
      ...gate,
      backend: accelerator === 'wasm' ? `LiteRT.js ${nameOf(engine)}` : backend,
      outcome: missed.length ? 'failed' : 'passed',
      detail: missed.join('; ') || `cosine ${figures.cosine.toFixed(7)}, |norm - 1| ${figures.norm_error.toExponential(0)}`,
      figures: { ...about, samples: made.length, ...figures, latency_ms: { first, median: median(times), runs: times.length }, outputs: made.map(base64), later: base64(later) },
      thresholds: limits,
    };
  } catch (error) {
    return { ...gate, outcome: 'failed', detail: error.message, figures: { ...about, samples: 0, outputs: [] }, thresholds: limits };
  } finally {
    engine?.close();
  }
}

function finish(manifest, gates, found) {
  const failed = gates.filter((gate) => gate.outcome === 'failed');
  const report = {
    format: 1,
    name: manifest.name,
    fingerprint: manifest.weights.fingerprint,
    device: { name: browserName(), system: navigator.userAgentData?.platform || navigator.platform || 'not told', gpu: found.adapter?.name ?? 'none' },
    versions: { '@litertjs/core': LITERT_VERSION },
    verdict: failed.length ? 'failed' : 'passed',
    gates,
  };
  const text = JSON.stringify(report, null, 1); // JSON writes NaN as null
  $('report').href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  $('report').hidden = false;
  const skipped = gates.filter((gate) => gate.outcome === 'skipped').length;
  $('verdict').textContent = `${failed.length ? `${failed.length} failed` : 'Everything that ran passed'}${skipped ? `; ${skipped} skipped` : ''}.`;
}

function row({ subject, backend, outcome, detail, figures }) {
  const digits = (name, format) => (Number.isFinite(figures?.[name]) ? format(figures[name]) : '–');
  const exponential = (value) => value.toExponential(1);
  const latency = figures?.latency_ms;
  const cells = [
    subject,
    backend,
    outcome === 'passed' ? outcome : `${outcome}: ${detail}`,
    digits('cosine', (value) => value.toFixed(7)),
    digits('correlation', (value) => value.toFixed(7)),
    digits('norm_error', exponential),
    digits('max_abs_diff', exponential),
    latency ? `${latency.first.toFixed(1)}, ${latency.median.toFixed(1)}` : '–',
  ];
  const made = make('tr', {}, ...cells.map((text) => make('td', { textContent: text })));
  made.children[2].className = outcome;
  return made;
}

function base64(array) {
  return btoa(Array.from(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), (byte) => String.fromCharCode(byte)).join(''));
}

function browserName() {
  const brand = navigator.userAgentData?.brands.find(({ brand: name }) => !/not.*brand/i.test(name));
  return brand ? `${brand.brand} ${brand.version}` : (/(Firefox|Version)\/[\d.]+( Mobile\S*)?( Safari)?/.exec(navigator.userAgent)?.[0] ?? 'a browser');
}
