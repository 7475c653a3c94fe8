// Copies what the page needs of LiteRT.js and of Hugging Face's tokenizers from node_modules into site/vendor, so that site/ is
// a whole page.
//
// Both run in a worker, and import maps do not reach workers: LiteRT.js's one bare import is made a path here.
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';

const packages = new URL('node_modules/', import.meta.url);
const target = new URL('site/vendor/', import.meta.url);
const BUILDS = ['litert_wasm_internal', 'litert_wasm_threaded_internal', 'litert_wasm_compat_internal'];
const BARE = '"@litertjs/wasm-utils"';

const read = (file) => readFile(new URL(file, packages), 'utf8');
const { version } = JSON.parse(await read('@litertjs/core/package.json'));
const source = await read('@litertjs/core/dist/index.js');
if (source.split(BARE).length !== 2) throw new Error(`LiteRT.js ${version} does not import ${BARE} once: vendor.js needs a look`);

await rm(target, { recursive: true, force: true });
await mkdir(new URL('litert/', target), { recursive: true });
for (const build of BUILDS.flatMap((name) => [`${name}.js`, `${name}.wasm`])) {
  await cp(new URL(`@litertjs/core/wasm/${build}`, packages), new URL(`litert/${build}`, target));
}
await cp(new URL('@litertjs/wasm-utils/dist/index.js', packages), new URL('litert/wasm-utils.js', target));
await writeFile(new URL('litert/litert.js', target), source.replace(BARE, '"./wasm-utils.js"').replace(/\n\/\/# sourceMappingURL.*/, ''));
await cp(new URL('@huggingface/tokenizers/dist/tokenizers.min.mjs', packages), new URL('tokenizers/tokenizers.js', target));
await writeFile(new URL('litert/version.js', target), `export const LITERT_VERSION = '${version}';\n`); // the last: all is there
