"""An embedding index: one `.npz` that `pecore embed` writes and grows, searched exactly.

| array | what |
|---|---|
| `embeddings` | `[n, dim]` float32, rows L2-normalised; first and uncompressed, so that it can be memory-mapped |
| `paths` | `[n]` str: the images, as they were named |
| `stamps` | `[n, 2]` int64: each file's size in bytes and time of modification in ns, to know a changed image |
| `about` | JSON: the bundle, file and backend they were made with, and their `Bundle.space` |

`pecore.indexing` makes it.
"""

import json
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pecore.errors import InputError
from pecore.files import replacing

ROWS_AT_ONCE = 65536
"""Rows of a search's matrix product: 256 MB at 1024 dimensions, and 256 KB of scores for each query."""

LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name and extra field, whose lengths are its last two uint16."""

Stamp = tuple[int, int]


@dataclass(frozen=True)
class Index:
    """An opened index. `embeddings` is memory-mapped and read-only; row i belongs to `paths[i]`."""

    path: Path
    embeddings: np.ndarray
    paths: Sequence[str]
    stamps: Sequence[Stamp]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.paths)


def top_k(
    queries: np.ndarray, embeddings: np.ndarray, k: int, rows_at_once: int = ROWS_AT_ONCE
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest inner product for each query: exact, and of equal ones the first rows.

    Args:
        queries: `[q, dim]` float32. embeddings: `[n, dim]` float32, memory-mapped or not.
        rows_at_once: rows whose scores are held at a time.

    Returns:
        Rows `[q, min(k, n)]` int64 and scores `[q, min(k, n)]` float32, the largest first.
    """
    if k < 1:
        raise InputError(f"the {k} nearest are none; ask for 1 or more")
    count = len(queries)
    rows = [np.zeros(0, np.int64) for _ in range(count)]
    scores = [np.zeros(0, np.float32) for _ in range(count)]
    for start in range(0, len(embeddings), rows_at_once):
        block = embeddings[start : start + rows_at_once] @ queries.T
        for q in range(count):
            new = block[:, q]
            keep = _largest(new, k)
            rows[q] = np.concatenate([rows[q], keep + start])
            scores[q] = np.concatenate([scores[q], new[keep]])
            best = np.lexsort((rows[q], -scores[q]))[:k]
            rows[q], scores[q] = rows[q][best], scores[q][best]
    return np.array(rows), np.array(scores, dtype=np.float32)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest and of all that equal the k-th."""
    if len(scores) <= k:
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])


def read_index(path: Path) -> Index:
    """Open an index that `pecore embed` wrote.

    Raises:
        InputError: missing, damaged or of another make.
    """
    try:
        embeddings = _map_member(path, "embeddings.npy")
        with np.load(path, allow_pickle=False) as stored:
            paths, stamps, about = stored["paths"].tolist(), stored["stamps"], json.loads(str(stored["about"]))
        if embeddings.ndim != 2 or embeddings.dtype != np.float32 or not len(embeddings) == len(paths) == len(stamps):
            raise ValueError(f"{list(embeddings.shape)} {embeddings.dtype} embeddings for {len(paths)} paths")
        about["space"]["fingerprint"]
    except FileNotFoundError as error:
        raise InputError(f"there is no index {path}; make one with `pecore embed IMAGES --out {path}`") from error
    except (OSError, KeyError, TypeError, ValueError, EOFError, struct.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no index of ours ({reason}); make one with `pecore embed`") from error
    return Index(path, embeddings, paths, [(int(size), int(time)) for size, time in stamps], about)


def _map_member(path: Path, name: str) -> np.ndarray:
    """An array of an `.npz`, mapped where it lies in the file."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {name} is compressed")
    with path.open("rb") as file:
        file.seek(member.header_offset)
        lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
        file.seek(sum(lengths), os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"its {name} has another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if not all(shape):
        return np.zeros(shape, dtype)  # an empty mapping is refused by the system
    mapped = np.memmap(path, dtype, "r", offset, shape)
    # A matrix product copies what is not aligned, every time; one copy here is less.
    return mapped if mapped.flags.aligned else np.array(mapped)


def write_index(
    path: Path,
    blocks: Iterable[np.ndarray],
    paths: Sequence[str],
    stamps: Sequence[Stamp],
    about: Mapping[str, Any],
    dim: int,
) -> None:
    """Write an index, whole or not at all.

    Args:
        blocks: the embeddings in blocks of rows `[m, dim]` float32, `len(paths)` rows in all.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), dim)}
    arrays = {"paths": np.array(paths), "stamps": np.array(stamps, np.int64), "about": np.array(json.dumps(about))}
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        # The first member's data begins at byte 192, so the mapping is aligned.
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block, "<f4").data)
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)
