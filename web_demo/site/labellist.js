// A person's own labels: what may be in the list, and how it changes. Every change makes a new list.

export const TEMPLATE = 'a photo of a {}.';

const plain = (label) => label.normalize('NFKC').toLowerCase().split(/\s+/).join(' ').trim();

/** Why `label` can't be in `labels` (but for the one at `at`, which it replaces), or null where it can. */
export function refused(labels, label, at = -1) {
  if (!plain(label)) return 'A label needs a word or two.';
  const same = labels.findIndex((other, i) => i !== at && plain(other) === plain(label));
  return same < 0 ? null : `“${labels[same]}” is in the list already.`;
}

/** Why a template can't be used, or null where it can. */
export function refusedTemplate(template) {
  return template.includes('{}') ? null : 'A template needs {} where the label goes, as in “a photo of a {}.”.';
}

export const prompt = (template, label) => template.replaceAll('{}', () => label);

export const replaced = (labels, at, label) => labels.map((other, i) => (i === at ? label.trim() : other));

export const removed = (labels, at) => labels.filter((_, i) => i !== at);

/** The label at `at`, `by` places further on; where it would leave the list, the list as it is. */
export function moved(labels, at, by) {
  if (at + by < 0 || at + by >= labels.length) return labels;
  const rest = removed(labels, at);
  return [...rest.slice(0, at + by), labels[at], ...rest.slice(at + by)];
}

/** What was remembered, or an empty list: others may have written there, too. */
export function restored(text) {
  try {
    const { labels, template } = JSON.parse(text);
    if (Array.isArray(labels) && labels.every((label) => typeof label === 'string') && !refusedTemplate(template)) return { labels, template };
  } catch {
    // nothing there, or nothing of ours
  }
  return { labels: [], template: TEMPLATE };
}
