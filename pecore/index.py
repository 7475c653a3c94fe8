"""An embedding index: a Lance dataset that `pecore embed` writes and grows, on a disk or in a bucket.

| column | what |
|---|---|
| `path` | the image, as it was named; the key: no two rows share it |
| `size`, `modified_ns` | the file's bytes and time of modification, to know a changed image |
| `embedding` | `[dim]` float32, L2-normalised |

The schema's metadata says what the rows were made with: the bundle, its file, the backend, and their `Bundle.space`.

    index = open_index("photos.lance")
    index.search(encoder.embed_text("a red bicycle")[0], top=5, where="modified > '2026-01-01'")

`pecore.index_writer` writes it, `pecore.index_formats` reads and writes other forms.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pecore.errors import InputError

ABOUT_KEY = b"pecore"
"""Of the schema's metadata: JSON, what the rows were made with."""

ROWS_AT_ONCE = 65536
"""Rows of a search's matrix product: 256 MB at 1024 dimensions."""

APPROXIMATE_INDEX = "embedding_idx"
"""Name of the approximate index that `pecore index` builds."""

LANCE_FOLDERS = {"data", "_versions", "_transactions", "_deletions", "_indices"}

PROBES, CANDIDATES, REFINE = 20, 100, 4
"""A query of the approximate index looks into that many partitions at least, keeps that many candidates in each, and
compares `REFINE` times as many rows as it returns in float32. docs/collections.md has the recall."""


@dataclass(frozen=True)
class Found:
    """An image that a search found, and its cosine with the query."""

    path: str
    cosine: float


@dataclass(frozen=True)
class Block:
    """Some rows of an index: their addresses `[m]` uint64, embeddings `[m, dim]` float32, and which of them count
    (`[m]` bool; None for all)."""

    addresses: np.ndarray
    embeddings: np.ndarray
    counted: np.ndarray | None = None


@dataclass(frozen=True)
class _Page:
    """Rows of a fragment, from `first` on, that lie unencoded in a local file."""

    fragment: int
    first: int
    rows: int
    file: str
    position: int


class Index:
    """An opened index, as it was when it was opened.

    Attributes:
        location: its folder, or its address in a bucket.
        about: what the rows were made with; `space` of it says which embeddings they may be compared with.
        dim: the length of an embedding.
    """

    def __init__(self, location: str, dataset: Any) -> None:
        self.location, self.dataset = location, dataset
        try:
            self.about: Mapping[str, Any] = json.loads(dataset.schema.metadata[ABOUT_KEY])
            self.space: Mapping[str, Any] = self.about["space"]
            self.space["fingerprint"]
            self.dim = int(dataset.schema.field("embedding").type.list_size)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{location} is no index of ours, its schema lacks {error}; make one with `pecore embed`"
            ) from error

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    @cached_property
    def approximate_rows(self) -> int:
        """Rows that the approximate index covers; 0 where there is none."""
        return sum(int(i.num_rows_indexed) for i in self.dataset.describe_indices() if i.name == APPROXIMATE_INDEX)

    def search(
        self, embedding: np.ndarray, top: int = 10, where: str | None = None, exact: bool = False
    ) -> list[Found]:
        """The images nearest to an embedding `[dim]` float32, the nearest first.

        Args:
            where: an SQL condition on `path`, `size`, `modified` (a time) and `modified_ns`.
            exact: compare with every row although there is an approximate index.

        Raises:
            InputError: fewer than 1 wanted, an embedding of another length, a condition that can't be used.
        """
        if top < 1:
            raise InputError(f"the {top} nearest are none; ask for 1 or more")
        query = np.ascontiguousarray(embedding, np.float32)
        if query.shape != (self.dim,):
            raise InputError(f"a query of {self.location} has {self.dim} numbers, not {list(query.shape)}")
        condition = _condition(where)
        if self.approximate_rows and not exact:
            return self._nearest(query, top, condition)
        addresses, cosines = top_k(query, self.blocks(condition), top)
        paths = self.paths(addresses)
        return [Found(path, float(cosine)) for path, cosine in zip(paths, cosines)]

    def _nearest(self, query: np.ndarray, top: int, condition: str | None) -> list[Found]:
        """Through Lance's index; it scans rows that were added since."""
        nearest = {"column": "embedding", "q": query, "k": top, "metric": "cosine", "refine_factor": REFINE}
        nearest |= {"minimum_nprobes": PROBES, "ef": max(CANDIDATES, REFINE * top)}  # more where a condition leaves few
        with _condition_named(condition):
            table = self.dataset.scanner(
                columns=["path", "_distance"], nearest=nearest, filter=condition, prefilter=True
            ).to_table()
        found = zip(table["path"].to_pylist(), table["_distance"].to_pylist())
        return sorted((Found(from_stored(path), 1 - distance) for path, distance in found), key=lambda f: -f.cosine)

    def paths(self, addresses: np.ndarray) -> list[str]:
        """The paths of rows by their addresses, in that order."""
        if not len(addresses):
            return []
        chosen = f"_rowaddr IN ({', '.join(map(str, addresses))})"
        table = self.dataset.scanner(columns=["path"], filter=chosen, with_row_address=True).to_table()
        by_address = dict(zip(table["_rowaddr"].to_pylist(), table["path"].to_pylist()))
        return [from_stored(by_address[int(address)]) for address in addresses]

    def all_paths(self) -> list[str]:
        """Every row's path, in order."""
        return [from_stored(path) for batch in self.rows(["path"]) for path in batch["path"].to_pylist()]

    def embeddings(self) -> np.ndarray:
        """All embeddings `[n, dim]` float32, in memory, in the order of `all_paths`."""
        out = np.empty((len(self), self.dim), np.float32)
        first = 0
        for batch in self.rows(["embedding"]):
            out[first : first + len(batch)] = to_matrix(batch["embedding"])
            first += len(batch)
        return out

    def rows(self, columns: Sequence[str], rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Any]:
        """Every row in order, as `pyarrow.RecordBatch`es of these columns."""
        yield from self.dataset.scanner(columns=list(columns), batch_size=rows_at_once, scan_in_order=True).to_batches()

    def blocks(self, condition: str | None = None) -> Iterator[Block]:
        """The embeddings in blocks, in the order of their rows: mapped where they lie on a local disk."""
        pages = self._pages
        if pages is None:
            yield from self._scanned(condition)
            return
        counted = self._counted(condition)
        for page in pages:
            for first in range(0, page.rows, ROWS_AT_ONCE):
                rows = min(ROWS_AT_ONCE, page.rows - first)
                start = page.first + first
                keep = None if counted is None else counted.get(page.fragment, _NONE)[start : start + rows]
                if keep is not None and not keep.any():
                    continue
                # Mapped block by block: pages of a mapping that is gone don't count as this process's memory.
                embeddings = np.memmap(page.file, "<f4", "r", page.position + 4 * self.dim * first, (rows, self.dim))
                addresses = (np.uint64(page.fragment) << np.uint64(32)) + np.arange(
                    start, start + rows, dtype=np.uint64
                )
                yield Block(addresses, embeddings, keep)

    def _scanned(self, condition: str | None) -> Iterator[Block]:
        with _condition_named(condition):
            for batch in self.dataset.scanner(
                columns=["embedding"], filter=condition, with_row_address=True, batch_size=ROWS_AT_ONCE
            ).to_batches():
                yield Block(batch["_rowaddr"].to_numpy(), to_matrix(batch["embedding"]))

    def _counted(self, condition: str | None) -> dict[int, np.ndarray] | None:
        """Fragment -> which of its rows meet the condition and are not deleted; None where all do."""
        fragments = {f.fragment_id: f for f in self.dataset.get_fragments()}
        if condition is None and not any(f.num_deletions for f in fragments.values()):
            return None
        counted: dict[int, np.ndarray] = {}
        with _condition_named(condition):
            for batch in self.dataset.scanner(columns=[], filter=condition, with_row_address=True).to_batches():
                addresses = batch["_rowaddr"].to_numpy()
                ids = (addresses >> np.uint64(32)).astype(np.int64)
                for number in np.unique(ids):
                    keep = counted.setdefault(int(number), np.zeros(fragments[int(number)].physical_rows, bool))
                    keep[addresses[ids == number] & np.uint64(0xFFFFFFFF)] = True
        return counted

    @cached_property
    def _pages(self) -> list[_Page] | None:
        """Where the embeddings lie, if they lie in local files as plain float32; None where they do not, and Lance has
        to read them."""
        folder = _local(self.location)
        if folder is None or sys.byteorder != "little":
            return None
        field = next(f.id() for f in self.dataset.lance_schema.fields() if f.name() == "embedding")
        pages: list[_Page] = []
        for fragment in self.dataset.get_fragments():
            found = _fragment_pages(folder / "data", fragment, field, self.dim)
            if found is None:
                return None
            pages += found
        return pages if self._mapped_as_read(pages) else None

    def _mapped_as_read(self, pages: Sequence[_Page]) -> bool:
        """Whether each page's first row, mapped, is what Lance reads: a form of the file that we don't know would
        show here."""
        firsts = {(page.fragment << 32) + page.first: page for page in pages}
        for start in range(0, len(firsts), 1000):
            chosen = list(firsts)[start : start + 1000]
            table = self.dataset.scanner(
                columns=["embedding"], filter=f"_rowaddr IN ({', '.join(map(str, chosen))})", with_row_address=True
            ).to_table()
            for address, row in zip(table["_rowaddr"].to_pylist(), to_matrix(table["embedding"].combine_chunks())):
                page = firsts[address]
                if not np.array_equal(np.memmap(page.file, "<f4", "r", page.position, (self.dim,)), row):
                    return False
        return True


_NONE = np.zeros(0, bool)


def _fragment_pages(folder: Path, fragment: Any, field: int, dim: int) -> list[_Page] | None:
    """The pages of a fragment's embeddings, where each is one buffer of exactly its float32 numbers."""
    from lance.file import LanceFileReader

    file = next((f for f in fragment.metadata.files if field in f.fields), None)
    if file is None or getattr(fragment.metadata, "overlays", None) or not (folder / file.path).is_file():
        return None
    path = str(folder / file.path)
    column = file.column_indices[list(file.fields).index(field)]
    pages, first = [], 0
    for page in LanceFileReader(path).metadata().columns[column].pages:
        if len(page.buffers) != 1 or page.buffers[0].size % (4 * dim) or not page.buffers[0].size:
            return None
        rows = page.buffers[0].size // (4 * dim)
        pages.append(_Page(fragment.fragment_id, first, rows, path, page.buffers[0].position))
        first += rows
    return pages if first == fragment.physical_rows else None


def open_index(location: str | Path) -> Index:
    """Open an index that `pecore embed` wrote: a folder, or an address such as `s3://bucket/photos.lance`.

    Raises:
        InputError: missing, damaged or of another make.
    """
    location = str(location)
    if location.endswith(".npz"):
        imported = f"{location.removesuffix('.npz')}.lance"
        raise InputError(f"{location} is an export; `pecore embed {location} --out {imported}` makes an index of it")
    dataset = open_dataset(location)
    if dataset is None:
        raise InputError(f"there is no index {location}; make one with `pecore embed IMAGES --out {location}`")
    return Index(location, dataset)


def open_dataset(location: str) -> Any | None:
    """The Lance dataset there; None where there is nothing.

    Raises:
        InputError: something else is there, or it is damaged or can't be reached.
    """
    lance, folder = import_lance(), _local(location)
    if folder and folder.is_file():
        raise InputError(f"{location} is a file and no index of ours; make one with `pecore embed`")
    try:
        return lance.dataset(location)
    except (OSError, ValueError, RuntimeError) as error:
        if _empty(folder) if folder else "was not found" in str(error):
            return None
        raise InputError(f"{location} is no index of ours ({reason(error)}); make one with `pecore embed`") from error


def _empty(folder: Path) -> bool:
    """Whether nothing is there, or what a writer leaves that was stopped before its first commit."""
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return {path.name for path in folder.iterdir()} <= LANCE_FOLDERS and not any(folder.glob("_versions/*.manifest"))


def import_lance() -> Any:
    """The `lance` module. Its statistics leave centroids out, which it otherwise warns of."""
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    import lance

    return lance


def reason(error: Exception) -> str:
    """Lance's words for what went wrong, without the places in its source."""
    return re.sub(r",? ?(/\S+\.rs|src/\S+\.rs):\d+(:\d+)?", "", " ".join(str(error).split())).rstrip(" .,:")


def top_k(query: np.ndarray, blocks: Iterable[Block], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest inner product with `query` `[dim]`: exact, and of equal ones the first rows.

    Returns:
        Addresses `[min(k, n)]` uint64 and inner products `[min(k, n)]` float32, the largest first.
    """
    addresses, scores = np.zeros(0, np.uint64), np.zeros(0, np.float32)
    for block in blocks:
        new = block.embeddings @ query
        if block.counted is not None:
            new = np.where(block.counted, new, -np.inf)
        keep = _largest(new, k)
        keep = keep[new[keep] > -np.inf]
        addresses = np.concatenate([addresses, block.addresses[keep]])
        scores = np.concatenate([scores, new[keep]])
        best = np.lexsort((addresses, -scores))[:k]
        addresses, scores = addresses[best], scores[best]
    return addresses, scores


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest and of all that equal the k-th."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])


def to_matrix(column: Any) -> np.ndarray:
    """A fixed-size-list array as `[n, dim]`, without a copy."""
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)


def to_stored(path: str) -> str:
    """A path as Arrow can hold it: bytes of a name that are not UTF-8 are written `\\udcXX`."""
    return path.encode("utf-8", "backslashreplace").decode()


def from_stored(path: str) -> str:
    """What `to_stored` was given."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), path)


def _condition(where: str | None) -> str | None:
    """An SQL condition with `modified`, outside of quotes, as the time that `modified_ns` counts in (UTC)."""
    if where is None:
        return None
    parts = re.split(r"('(?:[^']|'')*'|\"[^\"]*\")", where)
    parts[::2] = [re.sub(r"\bmodified\b", "cast(modified_ns as timestamp(9))", part) for part in parts[::2]]
    return "".join(parts)


@contextmanager
def _condition_named(condition: str | None) -> Iterator[None]:
    """Name the condition in the error of a scan that it spoils."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if condition is None:
            raise
        raise InputError(
            f"the condition {condition!r} can't be used ({reason(error)}); it may name path, size, modified and "
            "modified_ns, as in \"modified > '2026-01-01' and size > 100000\""
        ) from error


def _local(location: str) -> Path | None:
    """A location on this machine's disks."""
    return None if "://" in location else Path(location)
