// Float16 weights made float32, for LiteRT.js on WASM.
//
// In a file of float16 weights each matrix passes a DEQUANTIZE on its way to the op that reads it. LiteRT's native runtime makes
// such matrices float32 when it loads the file, and XNNPACK runs the ops. LiteRT.js 2.5.3 does not, and runs them without XNNPACK
// in several times the time (docs/web.md, LiteRT issue 9663). Here the float16 constants become the same numbers in float32, the
// ops read them directly, and the DEQUANTIZEs go.
//
// It reads what `pecore convert` writes: large constants lie after the flatbuffer, and its Buffer tables say where. So the flatbuffer
// keeps its layout, and only numbers in it change.

const DEQUANTIZE = 6; // as are the next, from LiteRT's schema
const FLOAT32 = 0;
const FLOAT16 = 1;
const MODEL = { operatorCodes: 1, subgraphs: 2, buffers: 4 };
const OPERATOR_CODE = { deprecated: 0, builtin: 3 };
const SUBGRAPH = { tensors: 0, outputs: 2, operators: 3 };
const TENSOR = { type: 1, buffer: 2 };
const OPERATOR = { code: 0, inputs: 1, outputs: 2 };
const BUFFER = { offset: 1, size: 2 };

const ALIGNMENT = 16; // bytes, of a buffer's data
const ROOM = 1.9e9; // bytes, of the 2 GiB that WASM has: the file and XNNPACK's own copy of its weights

/**
 * @param {ArrayBuffer} bytes a .tflite; stays as it is
 * @returns {ArrayBuffer} with float32 in place of float16 constants; `bytes` itself where it has none, or where there is no room
 */
export function unpackHalves(bytes) {
  const view = new DataView(bytes);
  const { buffers, subgraphs } = readModel(view);
  const halves = new Set(subgraphs.flatMap(({ halves: found }) => [...found.values()].map(({ buffer }) => buffer)));
  if (!halves.size) return bytes;

  const stored = [...buffers.entries()].filter(([, { size }]) => size).sort(([, a], [, b]) => a.offset - b.offset);
  let end = stored[0][1].offset;
  const head = new Uint8Array(bytes, 0, end);
  const moved = stored.map(([index, buffer]) => {
    const to = { ...buffer, offset: Math.ceil(end / ALIGNMENT) * ALIGNMENT, size: buffer.size * (halves.has(index) ? 2 : 1) };
    end = to.offset + to.size;
    return { from: buffer, to };
  });
  if (2 * end > ROOM) return bytes;

  const made = new ArrayBuffer(end);
  new Uint8Array(made).set(head);
  const target = new DataView(made);
  for (const { from, to } of moved) {
    target.setBigUint64(to.offsetAt, BigInt(to.offset), true);
    target.setBigUint64(to.sizeAt, BigInt(to.size), true);
    if (to.size === from.size) new Uint8Array(made, to.offset).set(new Uint8Array(bytes, from.offset, from.size));
    else widen(new Uint16Array(bytes, from.offset, from.size / 2), new Float32Array(made, to.offset, from.size / 2));
  }
  for (const subgraph of subgraphs) readDirectly(target, subgraph);
  return made;
}

/** Where things are: {offset, size} of every buffer's data, and of every subgraph its operators and float16 constants. */
function readModel(view) {
  const model = follow(view, 0);
  const codes = vector(view, field(view, model, MODEL.operatorCodes)).map((at) => {
    const [old, builtin] = [OPERATOR_CODE.deprecated, OPERATOR_CODE.builtin].map((index) => field(view, follow(view, at), index));
    return Math.max(old && view.getInt8(old), builtin && view.getInt32(builtin, true));
  });
  const buffers = vector(view, field(view, model, MODEL.buffers)).map((at) => {
    const [offsetAt, sizeAt] = [BUFFER.offset, BUFFER.size].map((index) => field(view, follow(view, at), index));
    const [offset, size] = [offsetAt, sizeAt].map((place) => (place ? Number(view.getBigUint64(place, true)) : 0));
    return { offsetAt, sizeAt, offset, size };
  });
  const subgraphs = vector(view, field(view, model, MODEL.subgraphs)).map((at) => readSubgraph(view, follow(view, at), codes, buffers));
  return { buffers, subgraphs };
}

/** `halves`: the tensor that a DEQUANTIZE writes -> the float16 constant that it reads, {tensor, typeAt, buffer}. */
function readSubgraph(view, subgraph, codes, buffers) {
  const tensors = vector(view, field(view, subgraph, SUBGRAPH.tensors)).map((at) => follow(view, at));
  const outputs = vector(view, field(view, subgraph, SUBGRAPH.outputs)).map((at) => view.getInt32(at, true));
  const operatorsAt = field(view, subgraph, SUBGRAPH.operators);
  const operators = vector(view, operatorsAt).map((at) => {
    const operator = follow(view, at);
    const code = field(view, operator, OPERATOR.code);
    const inputs = vector(view, field(view, operator, OPERATOR.inputs));
    const [output] = vector(view, field(view, operator, OPERATOR.outputs)).map((place) => view.getInt32(place, true));
    return { operator, code: codes[code && view.getUint32(code, true)], inputs, output };
  });
  const halves = new Map();
  for (const { code, inputs, output } of operators) {
    if (code !== DEQUANTIZE || outputs.includes(output)) continue;
    const tensor = view.getInt32(inputs[0], true);
    const [typeAt, bufferAt] = [TENSOR.type, TENSOR.buffer].map((index) => field(view, tensors[tensor], index));
    const buffer = bufferAt && view.getUint32(bufferAt, true);
    if (typeAt && view.getInt8(typeAt) === FLOAT16 && buffers[buffer].size) halves.set(output, { tensor, typeAt, buffer });
  }
  return { operatorsAt, operators, halves };
}

/** Let whatever reads a DEQUANTIZE's output read its input, and take the DEQUANTIZE out of the list of operators. */
function readDirectly(view, { operatorsAt, operators, halves }) {
  for (const { typeAt } of halves.values()) view.setInt8(typeAt, FLOAT32);
  const kept = operators.filter(({ output }) => !halves.has(output));
  for (const at of kept.flatMap(({ inputs }) => inputs)) {
    const half = halves.get(view.getInt32(at, true));
    if (half) view.setInt32(at, half.tensor, true);
  }
  const list = follow(view, operatorsAt);
  view.setUint32(list, kept.length, true);
  kept.forEach(({ operator }, i) => view.setUint32(list + 4 + 4 * i, operator - (list + 4 + 4 * i), true));
}

/** @param {Uint16Array} halves bits of float16 numbers */
export function widen(halves, target) {
  const values = new Float32Array(1 << 16);
  for (let bits = 0; bits < values.length; bits++) {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent === 31 ? (fraction ? NaN : Infinity) : exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    values[bits] = bits >> 15 ? -size : size;
  }
  for (let i = 0; i < halves.length; i++) target[i] = values[halves[i]];
}

// A flatbuffer: a table begins with the way back to the list of its fields' places, and offsets point forward.

const follow = (view, at) => at + view.getUint32(at, true);

/** Where a table's field is, or 0 where it has its default. */
function field(view, table, index) {
  const places = table - view.getInt32(table, true);
  const slot = 4 + 2 * index;
  const offset = slot < view.getUint16(places, true) ? view.getUint16(places + slot, true) : 0;
  return offset && table + offset;
}

/** Where the elements of a vector are, of four bytes each; none where there is no vector. */
function vector(view, at) {
  if (!at) return [];
  const start = follow(view, at);
  return Array.from({ length: view.getUint32(start, true) }, (_, i) => start + 4 + 4 * i);
}
