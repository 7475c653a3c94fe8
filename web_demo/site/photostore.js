// What this browser keeps of a person's photographs, in IndexedDB: for each model (the sha256 of its file) and path the size and
// time of the file that was read, its embedding, and a thumbnail; and which folder it was.

const NAME = 'pecore-photos';
const BATCH = 500; // records in memory at a time, beside the table they go into

const done = (request) => new Promise((resolve, reject) => {
  request.addEventListener('success', () => resolve(request.result));
  request.addEventListener('error', () => reject(request.error));
});

const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.addEventListener('complete', resolve);
  transaction.addEventListener('abort', () => reject(transaction.error));
});

/** The keys [model, path] under a folder, after a path. */
const under = (model, folder, after = `${folder}/`) => IDBKeyRange.bound([model, after], [model, `${folder}/\uffff`], true);

export class PhotoStore {
  #database;

  constructor(database) {
    this.#database = database;
  }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.addEventListener('upgradeneeded', () => {
      for (const name of ['photos', 'thumbnails', 'folders']) request.result.createObjectStore(name);
    });
    try {
      return new PhotoStore(await done(request));
    } catch (error) {
      throw new Error(`The browser keeps nothing for this page (${error.message}): leave the private window, or allow the page to store data.`);
    }
  }

  /** The folder of last time: {name, handle?}, or undefined. */
  folder() {
    return done(this.#database.transaction('folders').objectStore('folders').get('last'));
  }

  async setFolder(folder) {
    const transaction = this.#database.transaction('folders', 'readwrite');
    transaction.objectStore('folders').put(folder, 'last');
    await finished(transaction);
  }

  /**
   * Every record of a folder, a batch at a time.
   * @returns {AsyncGenerator<{path: string, size: number, modified: number, row?: Float32Array, problem?: string}>}
   */
  async *photos(model, folder) {
    let after;
    for (;;) {
      const store = this.#database.transaction('photos').objectStore('photos');
      const batch = await done(store.getAll(under(model, folder, after), BATCH));
      yield* batch;
      if (batch.length < BATCH) return;
      after = batch.at(-1).path;
    }
  }

  /** How many records there are of a folder. */
  count(model, folder) {
    return done(this.#database.transaction('photos').objectStore('photos').count(under(model, folder)));
  }

  /** Keep a photograph, in place of what was kept of its path. */
  async save(model, photo, thumbnail) {
    const transaction = this.#database.transaction(['photos', 'thumbnails'], 'readwrite');
    const key = [model, photo.path];
    transaction.objectStore('photos').put(photo, key);
    if (thumbnail) transaction.objectStore('thumbnails').put(thumbnail, key);
    else transaction.objectStore('thumbnails').delete(key);
    await finished(transaction);
  }

  thumbnail(model, path) {
    return done(this.#database.transaction('thumbnails').objectStore('thumbnails').get([model, path]));
  }

  async delete(model, paths) {
    const transaction = this.#database.transaction(['photos', 'thumbnails'], 'readwrite');
    for (const path of paths) {
      transaction.objectStore('photos').delete([model, path]);
      transaction.objectStore('thumbnails').delete([model, path]);
    }
    await finished(transaction);
  }

  /** Forget a folder, for this model. */
  async forget(model, folder) {
    const transaction = this.#database.transaction(['photos', 'thumbnails', 'folders'], 'readwrite');
    transaction.objectStore('photos').delete(under(model, folder));
    transaction.objectStore('thumbnails').delete(under(model, folder));
    transaction.objectStore('folders').delete('last');
    await finished(transaction);
  }
}
