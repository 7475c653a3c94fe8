// What a self-test runs: every sample once, then the first again and again.

/**
 * Outputs and times of a model. A later run is kept as well as the first ones: there are GPUs on which only a model's first
 * inference is right (LiteRT issue 8065: Adreno 8xx).
 * @param {{run: (input: Float32Array) => Promise<{output: Float32Array, ms: number}>}} engine
 * @param {Float32Array[]} inputs one a sample
 * @param {number} runs later ones at most, of which there is always one
 * @param {number} enough milliseconds after which no further one begins
 * @returns {Promise<{made: Float32Array[], later: Float32Array, first: number, times: number[]}>} `made` has one output a sample,
 *   `later` is the last output for the first sample; `first` is the first run's time in ms, `times` are the others'
 */
export async function runAll(engine, inputs, runs, enough) {
  const made = [];
  const times = [];
  for (const input of inputs) {
    const { output, ms } = await engine.run(input);
    made.push(output);
    times.push(ms);
  }
  const first = times.shift();
  const until = performance.now() + enough;
  let later;
  do {
    const { output, ms } = await engine.run(inputs[0]);
    later = output;
    times.push(ms);
  } while (times.length < runs && performance.now() < until);
  return { made, later, first, times };
}
