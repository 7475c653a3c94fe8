"""Make an index from images, a row at a time, so that work that was stopped goes on where it was.

Rows are appended to `<index>.part/` as they are made; when all are there the index is written and the folder goes. An
image is known by its path, size and time of modification: what has not changed since an earlier run is not embedded
again, neither from a run that was stopped nor from the index that is replaced.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pecore.errors import InputError
from pecore.index import Index, Stamp, read_index, write_index

ROWS_AT_ONCE = 4096
"""Rows gathered at a time when the index is written."""

MADE_WITH = ("file", "backend", "space")
"""What of an index's `about` its rows depend on; the bundle's folder may have moved."""

Key = tuple[str, Stamp]
"""An image: its path and its stamp."""

Skipped = tuple[Path, str]
"""An image that could not be used, and why."""


class Journal:
    """`<index>.part/`: embeddings in one file, which images they are of in another.

    A row counts when its line in the second file is whole: a stop at any moment loses at most the row being written.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], dim: int) -> None:
        self.folder, self.dim = out.with_name(f"{out.name}.part"), dim
        self.keys: list[Key] = []
        self._rows_path = self.folder / "rows.f32"
        names, header = self.folder / "images.jsonl", {"about": about, "dim": dim}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._rows: IO[bytes] = self._rows_path.open("ab")
            try:
                self._lock(out)
                self._recover(names, header)
                self._names: IO[str] = names.open("a", encoding="ascii")
            except BaseException:
                self._rows.close()  # and with it the lock
                raise
        except OSError as error:
            raise InputError(f"{self.folder} can't be written ({error.strerror}); give --out another place") from error
        if not self._names.tell():
            print(json.dumps(header, sort_keys=True), file=self._names, flush=True)

    def _lock(self, out: Path) -> None:
        """Keep other runs out until the file of rows is closed. Windows goes without, and so do file systems that have
        no locks."""
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another run is writing {out}; wait for its end, or give --out another file") from error
        except OSError:
            pass

    def _recover(self, names: Path, header: Mapping[str, Any]) -> None:
        """Take over the rows of a run that was stopped, and cut off what was half written."""
        lines = names.read_text("ascii").splitlines(True) if names.exists() else []
        lines = [line for line in lines if line.endswith("\n")]
        if lines and not _same(lines[0], header):
            raise InputError(
                f"{self.folder} was begun with another model or backend; finish it with that one, or delete the folder"
            )
        bytes_a_row = 4 * self.dim
        rows = self._rows_path.stat().st_size // bytes_a_row
        lines = lines[: 1 + rows]
        for line in lines[1:]:
            name, size, time = json.loads(line)
            self.keys.append((name, (size, time)))
        names.write_text("".join(lines), "ascii")
        os.truncate(self._rows_path, len(self.keys) * bytes_a_row)

    def append(self, key: Key, embedding: np.ndarray) -> None:
        """Add a row `[dim]` float32."""
        self._rows.write(embedding.astype("<f4").tobytes())
        self._rows.flush()
        (name, stamp) = key
        print(json.dumps([name, *stamp]), file=self._names, flush=True)
        self.keys.append(key)

    def rows(self) -> np.ndarray:
        """What is in it, `[n, dim]`, in the order of `keys`."""
        shape = (len(self.keys), self.dim)
        return np.memmap(self._rows_path, "<f4", "r", shape=shape) if self.keys else np.zeros(shape, np.float32)

    def close(self) -> None:
        self._rows.close()
        self._names.close()

    def delete(self) -> None:
        """Remove the folder: its rows are in the index."""
        shutil.rmtree(self.folder)


def _same(line: str, header: Mapping[str, Any]) -> bool:
    """Whether a journal's first line says that its rows are made as `header` has it."""
    try:
        begun = json.loads(line)
        return begun["dim"] == header["dim"] and _made_with(begun["about"]) == _made_with(header["about"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _made_with(about: Mapping[str, Any]) -> list[Any]:
    return [about.get(name) for name in MADE_WITH]


@dataclass(frozen=True)
class Built:
    """What `build_index` did: the index, how many rows it took over from earlier runs, which images it skipped."""

    index: Index
    reused: int
    skipped: list[Skipped]


def build_index(
    images: Sequence[Path],
    embed: Callable[[Path], np.ndarray],
    out: Path,
    about: Mapping[str, Any],
    dim: int,
    progress: Callable[[int, Skipped | None], None] = lambda done, skipped: None,
) -> Built:
    """Embed `images` and write their index to `out`; an index that is there is replaced, and its rows are used.

    Args:
        embed: path to embedding `[dim]`; an InputError of its skips the image.
        about: what the rows are made with, for the index; rows of another file, backend or space are refused.
        progress: told how many images are done, and the one that was skipped just now.

    Raises:
        InputError: `out` can't be written, is being written by another run, holds something else or rows of another
            model, or no image could be used.
    """
    old = _earlier(out, about)
    journal = Journal(out, about, dim)
    places = {key: (True, row) for row, key in enumerate(journal.keys)}
    if old:
        places |= {key: (False, row) for row, key in enumerate(zip(old.paths, old.stamps))}
    skipped: list[Skipped] = []
    keys: list[Key] = []
    reused = 0
    try:
        for done, path in enumerate(images, start=1):
            key, problem = (str(path), _stamp(path)), None
            if key in places:
                reused += 1
            else:
                try:
                    journal.append(key, embed(path))
                    places[key] = (True, len(journal.keys) - 1)
                except InputError as error:
                    problem = (path, str(error))
                    skipped.append(problem)
            if key in places:
                keys.append(key)
            progress(done, problem)
        if not keys:
            raise InputError(f"none of the {len(images)} images could be used; the first: {skipped[0][1]}")
        names, stamps = [name for name, _ in keys], [stamp for _, stamp in keys]
        journaled, kept = journal.rows(), old.embeddings if old else journal.rows()
        write_index(out, _blocks([places[key] for key in keys], journaled, kept), names, stamps, about, dim)
        journal.delete()
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror}); free some space and run it again") from error
    finally:
        journal.close()
    return Built(read_index(out), reused, skipped)


def _blocks(places: Sequence[tuple[bool, int]], journaled: np.ndarray, kept: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = places[start : start + ROWS_AT_ONCE]
        yield np.stack([(journaled if in_journal else kept)[row] for in_journal, row in some])


def _earlier(out: Path, about: Mapping[str, Any]) -> Index | None:
    """The index that is to be replaced, where its rows can serve."""
    if out.suffix != ".npz":
        raise InputError(f"an index is an .npz file, not {out.name}; give --out {out.with_suffix('.npz')}")
    if not out.exists():
        return None
    old = read_index(out)
    if _made_with(old.about) != _made_with(about):
        made = f"{old.about.get('file')} on {old.about.get('backend')} of {old.about['space'].get('source')}"
        raise InputError(f"{out} was made with {made}; give --out another file, or delete it")
    return old


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:  # whoever opens the image says why
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
