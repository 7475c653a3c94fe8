// Copies what the page needs of LiteRT.js from node_modules into site/vendor/litert, so that site/ is a whole page.
//
// LiteRT.js runs in a worker, and import maps do not reach workers: its one bare import is made a path here.
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';

const packages = new URL('node_modules/@litertjs/', import.meta.url);
const target = new URL('site/vendor/litert/', import.meta.url);
const BUILDS = ['litert_wasm_internal', 'litert_wasm_threaded_internal', 'litert_wasm_compat_internal'];
const BARE = '"@litertjs/wasm-utils"';

const { version } = JSON.parse(await readFile(new URL('core/package.json', packages), 'utf8'));
const source = await readFile(new URL('core/dist/index.js', packages), 'utf8');
if (source.split(BARE).length !== 2) throw new Error(`LiteRT.js ${version} does not import ${BARE} once: vendor.js needs a look`);

await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });
for (const build of BUILDS.flatMap((name) => [`${name}.js`, `${name}.wasm`])) {
  await cp(new URL(`core/wasm/${build}`, packages), new URL(build, target));
}
await cp(new URL('wasm-utils/dist/index.js', packages), new URL('wasm-utils.js', target));
await writeFile(new URL('litert.js', target), source.replace(BARE, '"./wasm-utils.js"').replace(/\n\/\/# sourceMappingURL.*/, ''));
await writeFile(new URL('version.js', target), `export const LITERT_VERSION = '${version}';\n`); // the last: all is there
