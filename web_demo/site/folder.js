// A folder of photographs: by the File System Access API where there is one, which can be asked again in the next visit, and by
// an <input webkitdirectory> elsewhere.

const PICTURE = /\.(jpe?g|jfif|png|webp|gif|bmp|avif|heic|heif|tiff?|jp2|jxl)$/i; // what can't be read is said, not left out

const isPicture = (name) => PICTURE.test(name) && !name.startsWith('.');

export const canBeAskedAgain = () => 'showDirectoryPicker' in globalThis;

/** @typedef {{path: string, file: () => Promise<File>}} Entry `path` begins with the folder's name */

/** Every picture under a directory's handle, by name. */
export async function listHandle(handle) {
  const entries = [];
  async function walk(directory, path) {
    for await (const [name, inside] of directory.entries()) {
      const own = `${path}/${name}`;
      if (inside.kind === 'file' && isPicture(name)) entries.push({ path: own, file: () => inside.getFile() });
      if (inside.kind === 'directory' && !name.startsWith('.')) await walk(inside, own);
    }
  }
  await walk(handle, handle.name);
  return sorted(entries);
}

/** The same of what an <input webkitdirectory> holds: {name, entries}. */
export function listFiles(files) {
  const paths = [...files].map((file) => ({ file, parts: (file.webkitRelativePath || file.name).split('/') }));
  const name = paths[0].parts.length > 1 ? paths[0].parts[0] : 'files';
  const inside = paths.filter(({ parts }) => isPicture(parts.at(-1)) && !parts.slice(1).some((part) => part.startsWith('.')));
  return { name, entries: sorted(inside.map(({ file, parts }) => ({ path: parts.length > 1 ? parts.join('/') : `files/${parts[0]}`, file: async () => file }))) };
}

const sorted = (entries) => entries.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));

/** Whether the browser may read a folder of last time; `ask` after a click, because it asks the person. */
export async function mayRead(handle, ask) {
  const granted = (await handle.queryPermission({ mode: 'read' })) === 'granted';
  return granted || (ask && (await handle.requestPermission({ mode: 'read' })) === 'granted');
}
