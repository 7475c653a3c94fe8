"""Write an index: rows go in by the hundred, each commit whole or not at all.

Lance keeps a version for every commit, so that a stop at any moment loses the rows since the last one and no others;
two writers that finish a commit at once are put in order, and a path that both bring is one row. What it does not do by
itself is put small files together: `tidy` does, now and then.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

import numpy as np

from pecore.errors import InputError
from pecore.index import ABOUT_KEY, APPROXIMATE_INDEX, Index, import_lance, open_dataset, reason, to_stored

COMMIT_ROWS = 256
"""Rows of a commit: what a stop loses at most."""

SMALL_FILES = 64
"""Files of less than half of `FILE_ROWS` that are put together."""

FILE_ROWS = 32768
"""Rows of a file that was put together: 128 MB at 1024 dimensions."""

OLD_VERSIONS = timedelta(hours=1)
"""How long readers of an earlier version keep its files."""

PARTITION_ROWS = 16384
"""Rows in a partition of the approximate index: a query reads some partitions, not the whole index."""

PATHS_AT_ONCE = 1000
"""Paths in the condition of one deletion."""

ROWS_COMPARED = 2**20
"""Rows whose paths are compared at a time with those of the images."""

MADE_WITH = ("file", "backend", "space")
"""What of an index's `about` its rows depend on; the bundle's folder may have moved."""

PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Tells Lance which column's values are unique: commits of two writers that bring the same one are refused, and made
again."""


@dataclass(frozen=True)
class ImageFile:
    """An image: its path as it was named, and its size in bytes and time of modification in ns, which change with
    it."""

    path: str
    size: int
    modified_ns: int


def schema(about: Mapping[str, Any], dim: int) -> Any:
    """The Arrow schema of an index."""
    import pyarrow as pa

    columns = [
        pa.field("path", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
    ]
    return pa.schema(columns, {ABOUT_KEY: json.dumps(dict(about), sort_keys=True)})


def to_table(images: Sequence[ImageFile], embeddings: np.ndarray, schema: Any) -> Any:
    """Rows of an index, from as many images and embeddings `[n, dim]` float32."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(embeddings, np.float32).reshape(-1))
    columns = [
        pa.array([to_stored(image.path) for image in images], pa.string()),
        pa.array([image.size for image in images], pa.int64()),
        pa.array([image.modified_ns for image in images], pa.int64()),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


class IndexWriter:
    """Adds to an index, and makes it where there is none.

    Args:
        about: what the rows are made with; an index of another file, backend or space is refused.

    Raises:
        InputError: a location that can't be written, or that holds something else or rows of another model. So do all
            methods for a disk that is full or a bucket that is gone; what was committed stays.
    """

    def __init__(self, location: str, about: Mapping[str, Any], dim: int) -> None:
        self.location = location
        self._schema = schema(about, dim)
        self._commits = 0
        with self._writing():
            dataset = open_dataset(location)
            if dataset is None:
                dataset = self._create()
        self._dataset = dataset
        index = Index(location, dataset)
        if index.dim != dim or _made_with(index.about) != _made_with(about):
            made = f"{index.about.get('file')} on {index.about.get('backend')} of {index.space.get('source')}"
            raise InputError(f"{location} was made with {made}; give --out another place, or delete it")

    def _create(self) -> Any:
        if "://" not in self.location:
            parent = os.path.dirname(os.path.abspath(self.location))
            if not os.path.isdir(parent):
                raise InputError(f"{self.location} can't be written: there is no folder {parent}; make it first")
        lance = import_lance()
        try:
            # Without a retry, which would put an empty version over what another writer has committed meanwhile.
            empty = lance.LanceOperation.Overwrite(self._schema, [])
            return lance.LanceDataset.commit(self.location, empty, read_version=0, max_retries=0)
        except OSError:
            made = open_dataset(self.location)  # by another writer, which was quicker
            if made is None:
                raise
            return made

    @property
    def schema(self) -> Any:
        return self._schema

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def known(self, images: Sequence[ImageFile]) -> np.ndarray:
        """Which of the images, `[n]` bool, have a row and have not changed since."""
        stamps = np.array([(image.size, image.modified_ns) for image in images], np.int64).reshape(-1, 2)
        found = np.zeros(len(images), bool)
        for places, rows in self._rows_of([image.path for image in images], ["size", "modified_ns"]):
            stored = np.stack([rows[name].to_numpy() for name in ("size", "modified_ns")], axis=1)
            found[places] = (stored == stamps[places]).all(axis=1)
        return found

    def _rows_of(self, paths: Sequence[str], columns: Sequence[str] = ()) -> Iterator[tuple[np.ndarray, Any]]:
        """Rows that hold one of these paths, as tables, each with its rows' places `[m]` in `paths`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array([to_stored(path) for path in paths], pa.large_string())
        some: list[Any] = []
        with self._writing():
            self._dataset.checkout_latest()
            for batch in chain(Index(self.location, self._dataset).rows(["path", *columns]), [None]):
                some += [batch] * (batch is not None)
                # The set of what is wanted is built anew for each comparison, so these are not many.
                if some and (batch is None or sum(map(len, some)) >= ROWS_COMPARED):
                    table = pa.Table.from_batches(some)
                    places = pc.index_in(table["path"].cast(pa.large_string()), value_set=wanted)
                    yield places.drop_null().to_numpy(), table.filter(places.is_valid())
                    some = []

    def add(self, images: Sequence[ImageFile], embeddings: np.ndarray) -> None:
        """Commit rows; those of paths that are there are replaced.

        Args:
            embeddings: `[n, dim]` float32.
        """
        if not len(images):
            return
        with self._writing():
            merge = self._dataset.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
            merge.conflict_retries(100).execute(to_table(images, embeddings, self._schema))
        self._commits += 1
        if self._commits % SMALL_FILES == 0:
            self.tidy()

    def commit_fragments(self, fragments: Sequence[Any], replaced: Sequence[str]) -> None:
        """Commit rows that others have written as Lance fragments, in place of those of the paths `replaced`."""
        lance = import_lance()
        self.remove([replaced[place] for places, _ in self._rows_of(replaced) for place in places])
        with self._writing():
            operation = lance.LanceOperation.Append(list(fragments))
            self._dataset = lance.LanceDataset.commit(
                self.location, operation, read_version=self._dataset.latest_version
            )

    def remove(self, paths: Sequence[str]) -> None:
        """Commit that these paths are gone."""
        for start in range(0, len(paths), PATHS_AT_ONCE):
            quoted = ("'" + to_stored(path).replace("'", "''") + "'" for path in paths[start : start + PATHS_AT_ONCE])
            with self._writing():
                self._dataset.checkout_latest()
                self._dataset.delete(f"path IN ({', '.join(quoted)})")

    def paths_below(self, places: Sequence[str]) -> list[str]:
        """Paths of rows that are in one of these folders, or are one of these."""
        same = {to_stored(place) for place in places}
        below = tuple(f"{place.rstrip('/')}/" for place in same)

        def chosen(path: str) -> bool:
            here = "." in same and "://" not in path and not os.path.isabs(path)
            return here or path in same or path.startswith(below)

        batches = Index(self.location, self._dataset).rows(["path"])
        return [path for batch in batches for path in batch["path"].to_pylist() if chosen(path)]

    def tidy(self) -> None:
        """Put small files together where there are many, and drop versions that nobody reads any more."""
        with self._writing():
            self._dataset.checkout_latest()
            if sum(f.physical_rows < FILE_ROWS // 2 for f in self._dataset.get_fragments()) >= SMALL_FILES:
                try:
                    self._dataset.optimize.compact_files(target_rows_per_fragment=FILE_ROWS)
                except (OSError, RuntimeError) as error:
                    if "conflict" not in str(error):  # another writer changed a row of theirs: next time
                        raise
            self._dataset.cleanup_old_versions(OLD_VERSIONS)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.location} can't be written ({reason(error)}); free some space or give --out another place, and "
                "run it again: what was committed is kept"
            ) from error


def _made_with(about: Mapping[str, Any]) -> list[Any]:
    return [about.get(name) for name in MADE_WITH]


def build_approximate(index: Index, again: bool = False) -> None:
    """Build Lance's approximate index (IVF_HNSW_SQ, cosine) over all rows, or add those that are new to it.

    Args:
        again: build it anew although there is one, where the rows have changed much since.

    Raises:
        InputError: too few rows, or a place that can't be written.
    """
    partitions = len(index) // PARTITION_ROWS
    if not partitions:
        raise InputError(
            f"{index.location} has {len(index)} rows, which a search compares in milliseconds; an approximate index is "
            f"for {PARTITION_ROWS} rows and more"
        )
    try:
        if index.approximate_rows and not again:
            index.dataset.optimize.optimize_indices()
        else:
            index.dataset.create_index(
                "embedding",
                "IVF_HNSW_SQ",
                name=APPROXIMATE_INDEX,
                metric="cosine",
                replace=True,
                num_partitions=partitions,
                m=16,
                ef_construction=100,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{index.location} can't be indexed ({reason(error)}); free some space and try again"
        ) from error
