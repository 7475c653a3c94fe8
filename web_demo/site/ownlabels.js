// The editor of a person's own labels: chips, a template, remembered for each bundle.

import { moved, prompt, refused, refusedTemplate, removed, replaced, restored } from './labellist.js';
import { $, make } from './page.js';

/**
 * @param {object} manifest
 * @param {TextTower} tower
 * @param {(labels: {names: string[], embeddings: Float32Array, scale: number}|null) => void} changed told with every change
 * @param {(error: Error) => void} failed
 * @returns {() => void} embeds what is in the list, and tells
 */
export function ownLabels(manifest, tower, changed, failed) {
  const key = `pecore-labels ${manifest.name} ${manifest.weights.fingerprint ?? manifest.weights.source}`;
  let { labels, template } = restored(localStorage.getItem(key));
  let round = 0;

  async function tell() {
    const mine = ++round;
    if (!labels.length) return changed(null);
    try {
      const { rows, cut } = await tower.embed(labels.map((label) => prompt(template, label)));
      if (mine !== round) return; // the list has changed meanwhile
      const embeddings = new Float32Array(rows.length * rows[0].length);
      rows.forEach((row, i) => embeddings.set(row, i * row.length));
      const long = labels.filter((_, i) => cut[i]);
      say(long.length ? `Longer than the model reads, so its end is cut: ${long.map((label) => `“${label}”`).join(', ')}.` : '');
      changed({ names: labels, embeddings, scale: manifest.text.logit_scale });
    } catch (error) {
      failed(error);
    }
  }

  /** Take a list over; `focus` finds the button that is to have the focus in the new chips. */
  function set(list, said, focus) {
    labels = list;
    remember();
    show();
    say(said);
    focus?.();
    tell();
  }

  function remember() {
    try {
      localStorage.setItem(key, JSON.stringify({ labels, template }));
    } catch {
      say('The browser keeps nothing for this page: these labels are gone when it is closed.');
    }
  }

  function show() {
    $('chips').replaceChildren(...labels.map(chip));
  }

  function say(text) {
    $('own-said').textContent = text;
  }

  function chip(label, at) {
    const button = (text, name, act, off = false) => {
      const made = make('button', { type: 'button', textContent: text, ariaLabel: name, title: name, disabled: off });
      made.addEventListener('click', act);
      return made;
    };
    const move = (by) => set(moved(labels, at, by), `“${label}” is number ${at + by + 1} of ${labels.length}.`, () => focusChip(at + by));
    const name = button(label, `Edit ${label}`, () => edit(at));
    name.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === 'Delete') remove();
      else if (by && event.altKey && moved(labels, at, by) !== labels) {
        event.preventDefault();
        move(by);
      }
    });
    function remove() {
      set(removed(labels, at), `“${label}” is removed.`, () => (labels.length ? focusChip(Math.min(at, labels.length - 1)) : $('new-label').focus()));
    }
    return make('li', {}, button('‹', `Move ${label} forward`, () => move(-1), at === 0), name,
      button('›', `Move ${label} back`, () => move(1), at === labels.length - 1), button('×', `Remove ${label}`, remove));
  }

  const focusChip = (at) => $('chips').children[at].children[1].focus();

  function edit(at) {
    const input = make('input', { type: 'text', value: labels[at], ariaLabel: `Label ${at + 1}` });
    let left = false;
    const leave = (keep, focus) => {
      if (left) return;
      const problem = keep && refused(labels, input.value, at);
      if (problem && focus) return say(problem);
      left = true;
      if (keep && !problem && input.value.trim() !== labels[at]) return set(replaced(labels, at, input.value), '', focus);
      show();
      focus?.();
    };
    input.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== 'Escape') return;
      event.preventDefault(); // or the same Enter would press the chip that gets the focus
      leave(event.key === 'Enter', () => focusChip(at));
    });
    input.addEventListener('blur', () => leave(true));
    $('chips').children[at].replaceChildren(input);
    input.focus();
    input.select();
  }

  $('add').addEventListener('submit', (event) => {
    event.preventDefault();
    const label = $('new-label').value.trim();
    const problem = refused(labels, label);
    if (problem) return say(problem);
    $('new-label').value = '';
    set([...labels, label], `“${label}” is added.`);
  });
  $('template').value = template;
  $('template').addEventListener('change', () => {
    const problem = refusedTemplate($('template').value);
    say(problem ?? '');
    if (problem) return;
    template = $('template').value;
    remember();
    tell();
  });
  show();
  return tell;
}
