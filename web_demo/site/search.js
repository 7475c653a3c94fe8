// ?search: a folder of photographs, embedded in this browser, and found by words or by a picture.

import { canBeAskedAgain, listFiles, listHandle, mayRead } from './folder.js';
import { focusable, showGrid } from './grid.js';
import { Gate, indexPhotos, timeLeft } from './indexer.js';
import { openModel } from './model.js';
import { $, clearError, endStage, make, showError, showStage } from './page.js';
import { PhotoStore } from './photostore.js';
import { noWords, TextTower } from './texttower.js';
import { VectorTable } from './vectors.js';

const SHOWN = 60; // photographs at a time
const THUMBNAIL = 240; // pixels
const PROBLEMS = 100; // files named that can't be read

let manifest;
let engine = null;
let model; // sha256 of its file: what was embedded with another one can't be compared
let store;
let tower;
let folder = null; // {name, handle?, entries?}: entries once it was listed
let table; // of the folder's photographs
let known; // path -> {size, modified}, unreadable ones included
let problems; // path -> why it can't be read
let gate = null; // while photographs are read
let complete = false; // all of them were
let running = Promise.resolve();
let asked = null; // what was looked for last, to look again among what is added

const photographs = (n) => `${n.toLocaleString('en')} photograph${n === 1 ? '' : 's'}`;

/** What is kept of the folder, for the model that is open. */
async function load() {
  table = new VectorTable(manifest.output.shape.at(-1));
  [known, problems] = [new Map(), new Map()];
  if (!folder) return;
  showStage(`Reading what is kept of “${folder.name}”`);
  for await (const { path, size, modified, row, problem } of store.photos(model, folder.name)) {
    known.set(path, { size, modified });
    if (row) table.set(path, row);
    else problems.set(path, problem);
  }
  endStage();
}

function show(said) {
  $('go-on').hidden = !folder || Boolean(gate);
  $('go-on').textContent = folder ? `${complete ? 'Look for changes in' : 'Go on with'} “${folder.name}”` : '';
  $('pause').hidden = !gate;
  $('pause').textContent = gate?.paused ? 'Go on' : 'Pause';
  $('forget').hidden = !folder;
  $('indexing').hidden = !gate;
  $('find').disabled = Boolean(noWords(manifest)) || !table.length;
  $('by-picture').disabled = !table.length;
  $('unreadable').hidden = !problems.size;
  $('unreadable-count').textContent = `${photographs(problems.size)} can’t be read by this browser`;
  $('unreadable-list').replaceChildren(...[...problems.keys()].sort().slice(0, PROBLEMS).map((path) => make('li', { textContent: path })));
  if (said !== undefined) $('indexing-said').textContent = said;
}

function progress({ done, total, secondsLeft }) {
  const left = gate?.paused ? 'paused' : secondsLeft === null ? '' : timeLeft(secondsLeft);
  $('indexing-text').textContent = [`${done.toLocaleString('en')} of ${photographs(total)}`, left].filter(Boolean).join(', ');
  $('indexed').value = total ? done / total : 1;
}

async function save(photo, thumbnail) {
  await store.save(model, photo, thumbnail);
  if (photo.row) {
    table.set(photo.path, photo.row);
    problems.delete(photo.path);
  } else {
    table.delete(photo.path);
    problems.set(photo.path, photo.problem);
  }
  if (table.length === 1 || photo.problem) show();
}

async function forget(paths) {
  await store.delete(model, paths);
  for (const path of paths) {
    table.delete(path);
    problems.delete(path);
  }
}

/** Read what is new in the folder, which has been listed. */
async function read() {
  gate = new Gate();
  complete = false;
  show(`Reading ${photographs(folder.entries.length)} in “${folder.name}”.`);
  let said;
  try {
    const work = { embed: (file) => engine.embed(file, THUMBNAIL), save, forget, progress, gate };
    const { embedded, unreadable, gone } = await indexPhotos(folder.entries, known, work);
    const parts = [`${embedded.toLocaleString('en')} new`, unreadable && `${unreadable} can’t be read`, gone && `${gone} gone`].filter(Boolean);
    complete = !gate.stopped;
    said = gate.stopped ? undefined : `Everything in “${folder.name}” is read: ${photographs(table.length)} to search (${parts.join(', ')}).`;
  } catch (error) {
    said = `Stopped after ${photographs(table.length)}, which can be searched.`;
    showError(await explained(error));
  }
  gate = null;
  show(said);
  if (asked && said) await look(asked, false);
}

/** What a person can do about what stops the reading. */
async function explained(error) {
  if (error.name === 'QuotaExceededError') {
    const { usage = 0, quota = 0 } = (await navigator.storage?.estimate?.().catch(() => null)) ?? {};
    const room = quota ? ` (${Math.round(usage / 1e6)} of ${Math.round(quota / 1e6)} MB are used)` : '';
    return new Error(`The browser has no more room for this page${room}: free some disk space, or forget a folder, and go on. Nothing that was read is lost.`);
  }
  if (error.name === 'NotAllowedError' || error.name === 'SecurityError') {
    return new Error(`The browser may no longer read “${folder.name}”: press “Go on” and allow it again.`);
  }
  return error;
}

/** Begin to read, after whatever is being read has been stopped. */
function begin() {
  running = stopped().then(read);
  return running;
}

async function stopped() {
  gate?.stop();
  await running.catch(() => {});
}

/** A folder takes the place of the one before. */
async function take(chosen) {
  await stopped();
  const other = folder?.name !== chosen.name;
  folder = chosen;
  if (other) {
    await load();
    clearFound();
  }
  try {
    await store.setFolder(chosen.handle ? { name: chosen.name, handle: chosen.handle } : { name: chosen.name });
    await navigator.storage?.persist?.(); // or the browser may throw it away when the disk fills up
  } catch (error) {
    return showError(await explained(error));
  }
  if (!chosen.entries.length) return show(`There is no picture in “${chosen.name}”.`);
  await begin();
}

async function takeHandle(handle) {
  showStage(`Looking into “${handle.name}”`);
  try {
    return await listHandle(handle);
  } catch (error) {
    const gone = error.name === 'NotFoundError' ? new Error(`“${handle.name}” is not where it was: choose the folder again.`) : null;
    folder ??= { name: handle.name, handle };
    show();
    showError(gone ?? (await explained(error)));
    return null;
  } finally {
    endStage();
  }
}

async function chooseFolder() {
  clearError();
  if (!canBeAskedAgain()) return $('folder').click();
  const handle = await showDirectoryPicker({ id: 'photographs', mode: 'read' }).catch((error) => {
    if (error.name !== 'AbortError') showError(new Error(`The browser can’t open this folder (${error.message}): choose another one.`));
    return null;
  });
  const entries = handle && (await takeHandle(handle));
  if (entries) await take({ name: handle.name, handle, entries });
}

/** The folder of last time: listed again where the browser allows it, chosen again where it can't be asked. */
async function goOn(ask = true) {
  clearError();
  if (!folder.handle) return chooseFolder();
  if (!(await mayRead(folder.handle, ask))) {
    return ask && showError(new Error(`The browser was not allowed to read “${folder.name}”: what was read before can be searched.`));
  }
  const entries = await takeHandle(folder.handle);
  if (entries) await take({ ...folder, entries });
}

async function forgetFolder() {
  if (!confirm(`Forget what was read of “${folder.name}”? The photographs themselves stay as they are.`)) return;
  await stopped();
  await store.forget(model, folder.name);
  folder = null;
  clearFound();
  await load();
  show('Forgotten.');
  $('choose-folder').focus();
}

function togglePause() {
  if (gate.paused) gate.resume();
  else gate.pause();
  show(gate.paused ? 'Paused.' : 'Going on.');
}

function clearFound() {
  asked = null;
  $('found').textContent = '';
  showGrid([], async () => null, () => {});
}

/**
 * @param {{text: string}|{picture: Blob, name: string}|{path: string}} query
 * @param {boolean} announce and not only show it
 */
async function look(query, announce = true) {
  clearError();
  const title = query.text !== undefined ? `“${query.text}”` : query.name ?? query.path.split('/').at(-1);
  try {
    const row = await embedded(query);
    asked = query;
    const found = table.nearest(row, SHOWN);
    const cut = query.cut ? ' The text is longer than the model reads: its end was cut.' : '';
    const all = table.length;
    const shown = await showGrid(found, (path) => store.thumbnail(model, path), (path) => look({ path }).then(() => focusable()?.focus()));
    if (shown && announce) $('found').textContent = `The ${found.length} nearest of ${photographs(all)} to ${title}.${cut}`;
  } catch (error) {
    showError(error);
  }
}

async function embedded(query) {
  if (query.path) return table.row(query.path);
  if (query.picture) return (await engine.embed(query.picture)).output;
  const { rows, cut } = await tower.embed([query.text]);
  query.cut = cut[0];
  return rows[0];
}

function listen() {
  $('choose-folder').addEventListener('click', chooseFolder);
  $('folder').addEventListener('change', () => {
    const files = [...$('folder').files];
    $('folder').value = '';
    if (files.length) take(listFiles(files));
  });
  $('go-on').addEventListener('click', () => goOn());
  $('pause').addEventListener('click', togglePause);
  $('forget').addEventListener('click', forgetFolder);
  $('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = $('words').value.trim();
    if (text) look({ text });
  });
  $('by-picture').addEventListener('click', () => $('query-picture').click());
  $('query-picture').addEventListener('change', () => {
    const [picture] = $('query-picture').files;
    if (picture) look({ picture, name: picture.name });
    $('query-picture').value = '';
  });
  for (const id of ['wish', 'weights']) $(id).addEventListener('change', changeModel);
}

async function changeModel() {
  clearError();
  clearFound();
  await stopped();
  try {
    await useModel();
    if (folder?.entries) begin();
  } catch (error) {
    endStage();
    showError(error);
  }
}

/** The files of the bundle, by sha256, with which something of the folder is kept. */
async function readBefore() {
  const digests = Object.values(manifest.files).map(({ sha256 }) => sha256);
  const counts = await Promise.all(digests.map((sha256) => (folder ? store.count(sha256, folder.name) : 0)));
  return new Set(digests.filter((_, i) => counts[i]));
}

async function useModel() {
  engine = await openModel(manifest, engine, await readBefore());
  model = engine.file.sha256;
  await load();
  endStage();
  show();
}

/** Show the screen. */
export async function start(given) {
  manifest = given;
  store = await PhotoStore.open();
  folder = (await store.folder()) ?? null;
  await useModel();
  const problem = noWords(manifest);
  if (!problem) tower = new TextTower(manifest);
  $('words').disabled = Boolean(problem);
  $('words-note').textContent = problem ? `${problem} A picture can be searched with all the same.` : `The text tower that reads words is downloaded once: ${tower.size}.`;
  $('search').hidden = false;
  listen();
  if (!folder) return;
  show(`${photographs(table.length)} of “${folder.name}” can be searched, from the last visit.${folder.handle ? '' : ' To read new ones, choose the folder again: what was read is not read twice.'}`);
  if (folder.handle) await goOn(false);
}
