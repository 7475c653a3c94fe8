// A text as the tokenizer's training saw it: what pecore/tokenizer.py's `clean` does (docs/preprocessing.md#text), but for
// ftfy's guesses at wrongly decoded text, which is a matter of files and not of what a person types.

const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u; // Python's, not JavaScript's
const CONTROLS = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const TERMINAL = /\x1b\[[\d;]*[a-zA-Z]/g;
const LIGATURES = {
  Ĳ: 'IJ', ĳ: 'ij', ŉ: 'ʼn', Ǳ: 'DZ', ǲ: 'Dz', ǳ: 'dz', Ǆ: 'DŽ', ǅ: 'Dž', ǆ: 'dž', Ǉ: 'LJ', ǈ: 'Lj', ǉ: 'lj', Ǌ: 'NJ', ǋ: 'Nj', ǌ: 'nj',
  ﬀ: 'ff', ﬁ: 'fi', ﬂ: 'fl', ﬃ: 'ffi', ﬄ: 'ffl', ﬅ: 'ſt', ﬆ: 'st',
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join('')}]`, 'g');
const WINDOWS_1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ'; // from 0x80 on

/**
 * @param {string} text
 * @param {Record<string, string>} entities HTML's named characters, entities.json
 */
export function clean(text, entities) {
  const unescaped = unescape(unescape(repair(text, entities), entities), entities);
  return unescaped.split(SPACES).filter(Boolean).join(' ').toLowerCase();
}

/** ftfy's `fix_text` without `fix_encoding`: line by line, each until nothing changes. */
function repair(text, entities) {
  let escaped = true; // a line with a < in it, and what comes after, is taken for text in which & means &
  return text.split(/(?<=\n)/).map((line) => {
    escaped &&= !line.includes('<');
    for (let before; before !== line; ) {
      before = line;
      if (escaped) line = line.replace(/&#?[0-9A-Za-z]{1,24};/g, (found) => strictly(found, entities));
      line = line
        .replace(/[\x80-\x9f]/g, (char) => WINDOWS_1252[char.charCodeAt(0) - 0x80])
        .replace(LIGATURE, (char) => LIGATURES[char])
        .replace(/[\u3000\uff01-\uffef]/g, (char) => char.normalize('NFKC')) // half and full width
        .replace(/[\u201c-\u201f]/g, '"')
        .replace(/[\u02bc\u2018-\u201b]/g, "'")
        .replace(/\p{Surrogate}/gu, '\ufffd')
        .replace(TERMINAL, '')
        .replace(CONTROLS, '')
        .normalize('NFC');
    }
    return line;
  }).join('');
}

/** An entity with its semicolon, and also one in capitals whose small form is known: &EACUTE;. */
function strictly(found, entities) {
  const name = found.slice(1);
  if (name[0] === '#') {
    const char = unescape(found, entities);
    return char.includes(';') ? found : char;
  }
  if (Object.hasOwn(entities, name)) return entities[name];
  const small = name.toLowerCase();
  const capitals = name === name.toUpperCase() && Object.hasOwn(entities, small) && unescape(found, entities) === found;
  return capitals ? entities[small].toUpperCase() : found;
}

/** Python's `html.unescape`: the rules of HTML 5, also without a semicolon. */
function unescape(text, entities) {
  return text.replace(/&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu, (found, name) => {
    if (name[0] === '#') return numbered(/x/i.test(name[1]) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10));
    if (Object.hasOwn(entities, name)) return entities[name];
    for (let end = name.length - 1; end > 1; end--) {
      if (Object.hasOwn(entities, name.slice(0, end))) return entities[name.slice(0, end)] + name.slice(end);
    }
    return found;
  });
}

function numbered(code) {
  if (code === 0 || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return '\ufffd';
  if (code >= 0x80 && code <= 0x9f) return WINDOWS_1252[code - 0x80];
  if (code === 0x0d) return '\r';
  const none = code < 0x09 || code === 0x0b || (code > 0x0d && code < 0x20) || code === 0x7f || (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
  return none ? '' : String.fromCodePoint(code);
}
