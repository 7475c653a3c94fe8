// Reads what the self-test needs of NumPy's .npz: a zip of little-endian float32 arrays in C order.

const END_OF_DIRECTORY = 0x06054b50;
const END_BYTES = 22;
const STORED = 0;
const DEFLATED = 8;

/**
 * @param {ArrayBuffer} buffer a whole .npz
 * @returns {Promise<Record<string, {shape: number[], data: Float32Array}>>} by the arrays' names
 */
export async function readNpz(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - END_BYTES;
  while (end >= 0 && view.getUint32(end, true) !== END_OF_DIRECTORY) end--;
  if (end < 0) throw new Error('it is not a zip file');
  const arrays = {};
  let entry = view.getUint32(end + 16, true); // the directory at the file's end knows the sizes, the local headers may not
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const method = view.getUint16(entry + 10, true);
    const size = view.getUint32(entry + 20, true);
    const nameBytes = view.getUint16(entry + 28, true);
    const local = view.getUint32(entry + 42, true);
    const name = new TextDecoder().decode(new Uint8Array(buffer, entry + 46, nameBytes));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name.replace(/\.npy$/, '')] = parseNpy(await unpack(new Uint8Array(buffer, start, size), method), name);
    entry += 46 + nameBytes + view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
  }
  return arrays;
}

async function unpack(data, method) {
  if (method === STORED) return data.slice().buffer;
  if (method !== DEFLATED) throw new Error(`its compression (method ${method}) is not known`);
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream('deflate-raw'))).arrayBuffer();
}

function parseNpy(buffer, name) {
  const view = new DataView(buffer);
  const [headerBytes, start] = view.getUint8(6) === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder().decode(new Uint8Array(buffer, start, headerBytes));
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].split(',').filter((n) => n.trim()).map(Number);
  if (!shape || !header.includes("'descr': '<f4'") || !header.includes("'fortran_order': False")) {
    throw new Error(`${name} in it is no little-endian float32 array in C order`);
  }
  return { shape, data: new Float32Array(buffer.slice(start + headerBytes)) };
}
