import assert from 'node:assert/strict';
import { test } from 'node:test';

import { beyond, compare } from '../site/figures.js';
import { runAll } from '../site/runs.js';

const samples = [[0.6, 0.8, 0], [0, 0.6, 0.8]].map((values) => Float32Array.from(values));

/** A model that returns its input; from its `wrongFrom`th run on, something else. */
function engine(wrongFrom = Infinity) {
  let run = 0;
  return { run: async (input) => ({ output: ++run < wrongFrom ? input.slice() : input.slice().reverse(), ms: run }) };
}

/** What a self-test judges: every sample's first output, and the first sample's last. */
const judged = ({ made, later }, inputs) => compare([...inputs, inputs[0]], [...made, later]);

for (const inputs of [samples.slice(0, 1), samples]) {
  test(`${inputs.length} of 2 samples: a model whose first inferences alone are right fails`, async () => {
    const good = judged(await runAll(engine(), inputs, 10, 5000), inputs);
    assert.deepEqual(beyond(good, { cosine: 0.99999 }), []);
    const bad = await runAll(engine(inputs.length + 1), inputs, 10, 5000);
    assert.ok(bad.made.every((output, i) => output.every((value, j) => value === inputs[i][j])));
    assert.equal(beyond(judged(bad, inputs), { cosine: 0.99999 }).length, 1);
  });
}

test('there is a later run even where one takes longer than there is time', async () => {
  const { made, later, first, times } = await runAll(engine(), samples.slice(0, 1), 10, 0);
  assert.equal(made.length, 1);
  assert.deepEqual([...later], [...samples[0]]);
  assert.deepEqual([first, times], [1, [2]]);
});

test('times are of every run but the first', async () => {
  const { first, times } = await runAll(engine(), samples, 10, 5000);
  assert.deepEqual([first, times], [1, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]);
});
