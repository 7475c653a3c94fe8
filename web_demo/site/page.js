// Elements by their id, and the few ways in which the page shows something. Text goes in as text, always.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function showError(error) {
  $('error').textContent = error?.message ?? String(error);
  $('error').hidden = false;
}

export function clearError() {
  $('error').hidden = true;
}

/** What is being waited for; `done` and `total` in bytes where it is a download. */
export function showStage(text, done, total) {
  $('loading').hidden = false;
  $('stage').textContent = total ? `${text}: ${megabytes(done)} of ${megabytes(total)} MB` : text;
  if (total) $('progress').value = done / total;
  else $('progress').removeAttribute('value');
}

export function endStage() {
  $('loading').hidden = true;
}

export const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

export const milliseconds = (ms) => `${ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
};

/** What `engine` runs on, in a few words. */
export function nameOf({ accelerator, precision, threads }) {
  return accelerator === 'webgpu' ? `WebGPU, ${precision}` : `WASM, ${threads} thread${threads === 1 ? '' : 's'}`;
}
