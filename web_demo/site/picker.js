// Which of the labels take part: ticks, with a filter.

import { $, make } from './page.js';

const SHOWN = 400; // boxes at a time

/** @param {(chosen: (index: number) => boolean) => void} changed told with every change */
export function showPicker(names, changed) {
  const off = new Set();
  const matching = () => {
    const wanted = $('filter').value.trim().toLowerCase();
    return names.map((_, index) => index).filter((index) => names[index].toLowerCase().includes(wanted));
  };

  function show() {
    const found = matching();
    $('list').replaceChildren(...found.slice(0, SHOWN).map(box));
    $('more').textContent = found.length > SHOWN ? `${found.length - SHOWN} more: type in the filter to see them.` : found.length ? '' : 'No label has that in it.';
    count();
  }

  function box(index) {
    const input = make('input', { type: 'checkbox', checked: !off.has(index) });
    input.addEventListener('change', () => set([index], input.checked));
    return make('li', {}, make('label', {}, input, make('span', { textContent: names[index] })));
  }

  function set(indices, on) {
    for (const index of indices) {
      if (on) off.delete(index);
      else off.add(index);
    }
    count();
    changed((index) => !off.has(index));
  }

  function count() {
    $('count').textContent = `${names.length - off.size} of ${names.length} labels are ticked`;
  }

  $('filter').addEventListener('input', show);
  for (const [id, on] of [['tick', true], ['untick', false]]) {
    $(id).addEventListener('click', () => {
      set(matching(), on);
      show();
    });
  }
  show();
}
