// CLIP's tokens, from a bundle's tokenizer.json: the ids that pecore/tokenizer.py finds.

import { clean } from './clean.js';
import { Tokenizer } from './vendor/tokenizers/tokenizers.js';

/**
 * @param {object} content of tokenizer.json
 * @param {Record<string, string>} entities content of entities.json
 * @param {number} length of the context
 * @returns {(text: string) => {ids: number[], whole: boolean}} ids of start, text and end; what is too long is cut, with the end
 *   last, and is not whole
 */
export function openTokenizer(content, entities, length) {
  const tokenizer = new Tokenizer(content, {});
  const ids = tokenizer.model.tokens_to_ids;
  const specials = new Set(['<start_of_text>', '<end_of_text>']);
  const [start, end] = [...specials].map((token) => ids.get(token));
  if (start === undefined || end === undefined || !tokenizer.pre_tokenizer) throw new Error('The bundle’s tokenizer.json is not CLIP’s: convert the text tower again.');
  return (text) => {
    // Word by word, because the file's special tokens would be found anywhere, and open_clip's are where a word begins.
    const tokens = tokenizer.pre_tokenizer(clean(text, entities)).flatMap((word) => (specials.has(word) ? word : tokenizer.model.encode([word])));
    return { ids: [start, ...tokens.slice(0, length - 2).map((token) => ids.get(token)), end], whole: tokens.length <= length - 2 };
  };
}
