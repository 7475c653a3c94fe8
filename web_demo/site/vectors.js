// Rows of numbers that are searched: one block of memory, whatever the number of photographs.

export class VectorTable {
  #rows; // Float32Array, with room to grow
  #dim;
  #paths = [];
  #places = new Map(); // path -> row

  constructor(dim, room = 256) {
    this.#dim = dim;
    this.#rows = new Float32Array(dim * room);
  }

  get length() {
    return this.#paths.length;
  }

  get bytes() {
    return this.#rows.byteLength;
  }

  has(path) {
    return this.#places.has(path);
  }

  /** Add a row, or replace the one of this path. */
  set(path, row) {
    if (row.length !== this.#dim) throw new Error(`a row of ${row.length} numbers in a table of ${this.#dim}`);
    const place = this.#places.get(path) ?? this.length;
    if ((place + 1) * this.#dim > this.#rows.length) {
      const larger = new Float32Array(2 * this.#rows.length);
      larger.set(this.#rows);
      this.#rows = larger;
    }
    this.#rows.set(row, place * this.#dim);
    this.#paths[place] = path;
    this.#places.set(path, place);
  }

  /** Take a row out: the last one moves to its place. */
  delete(path) {
    const place = this.#places.get(path);
    if (place === undefined) return;
    const last = this.#paths.pop();
    this.#places.delete(path);
    if (last === path) return;
    this.#rows.copyWithin(place * this.#dim, this.length * this.#dim, (this.length + 1) * this.#dim);
    this.#paths[place] = last;
    this.#places.set(last, place);
  }

  row(path) {
    const place = this.#places.get(path);
    return this.#rows.slice(place * this.#dim, (place + 1) * this.#dim);
  }

  /**
   * The `top` rows nearest to `query`, the nearest first, of equal ones the first by name.
   * @returns {{path: string, cosine: number}[]}
   */
  nearest(query, top) {
    const found = []; // sorted, at most `top`
    const dim = this.#dim;
    for (let place = 0; place < this.length; place++) {
      let cosine = 0;
      for (let i = 0, at = place * dim; i < dim; i++) cosine += query[i] * this.#rows[at + i];
      if (found.length === top && cosine < found[top - 1].cosine) continue;
      const path = this.#paths[place];
      let at = found.length;
      while (at > 0 && (cosine > found[at - 1].cosine || (cosine === found[at - 1].cosine && path < found[at - 1].path))) at--;
      found.splice(at, 0, { path, cosine });
      if (found.length > top) found.pop();
    }
    return found;
  }
}
