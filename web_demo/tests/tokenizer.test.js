// The page's tokens against Python's: tests/vectors/text.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { clean } from '../site/clean.js';
import { openTokenizer } from '../site/tokenizer.js';

const read = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), 'utf8'));
const vectors = read('../../tests/vectors/text/tokens.json');
const entities = read('../site/entities.json');

test('texts are cleaned as Python cleans them', () => {
  for (const { text, cleaned } of vectors.cases) assert.equal(clean(text, entities), cleaned, JSON.stringify(text));
});

test('tokens are Python’s', () => {
  const tokenize = openTokenizer(read('../../tests/vectors/text/tokenizer.json'), entities, vectors.context_length);
  assert.equal(vectors.cases.length, 500);
  for (const { text, ids } of vectors.cases) assert.deepEqual(tokenize(text).ids, ids, JSON.stringify(text));
  assert.ok(tokenize('a cat').whole);
  assert.ok(!tokenize('cat '.repeat(31)).whole);
});

test('a tokenizer that is not CLIP’s is refused', () => {
  const other = read('../../tests/vectors/text/tokenizer.json');
  other.added_tokens = [];
  delete other.model.vocab['<end_of_text>'];
  assert.throws(() => openTokenizer(other, entities, 32), /is not CLIP’s/);
});
