// The photographs that were found: a grid of buttons, of which Tab reaches one and the arrow keys the others.

import { $, make } from './page.js';

let addresses = []; // of the thumbnails that are shown
let round = 0;

/** The button that Tab reaches. */
export const focusable = () => $('grid').querySelector('[tabindex="0"]');

/**
 * @param {{path: string, cosine: number}[]} found
 * @param {(path: string) => Promise<Blob|undefined>} thumbnail
 * @param {(path: string) => void} chosen
 * @returns {Promise<boolean>} whether it is shown
 */
export async function showGrid(found, thumbnail, chosen) {
  const mine = ++round;
  const blobs = await Promise.all(found.map(({ path }) => thumbnail(path)));
  if (mine !== round) return false; // another search was faster
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = blobs.map((blob) => blob && URL.createObjectURL(blob));
  $('grid').replaceChildren(...found.map(({ path, cosine }, i) => tile(path, cosine, addresses[i], i, chosen)));
  return true;
}

function tile(path, cosine, address, index, chosen) {
  const name = path.split('/').at(-1);
  const image = make('img', { alt: '', ...(address && { src: address }) });
  const button = make('button', { type: 'button', title: path, tabIndex: index ? -1 : 0, ariaLabel: `${name}, cosine ${cosine.toFixed(3)}: find pictures like it` },
    image, make('span', { textContent: name }), make('span', { className: 'value', textContent: cosine.toFixed(3) }));
  Object.assign(button.dataset, { path, cosine });
  button.addEventListener('click', () => chosen(path));
  button.addEventListener('keydown', (event) => {
    const to = target(event.key, index);
    if (to === undefined) return;
    event.preventDefault();
    focusTile(to);
  });
  return make('li', {}, button);
}

function target(key, index) {
  const tiles = $('grid').children;
  const columns = getComputedStyle($('grid')).gridTemplateColumns.split(' ').length;
  const to = { ArrowLeft: index - 1, ArrowRight: index + 1, ArrowUp: index - columns, ArrowDown: index + columns, Home: 0, End: tiles.length - 1 }[key];
  return to >= 0 && to < tiles.length ? to : undefined;
}

function focusTile(index) {
  [...$('grid').children].forEach(({ firstChild }, i) => (firstChild.tabIndex = i === index ? 0 : -1));
  $('grid').children[index].firstChild.focus();
}
