"""An index in other forms: what it is exported to, and the `.npz` that earlier versions wrote.

| form | what |
|---|---|
| `npz` | `embeddings` `[n, dim]` float32, `paths` `[n]` str, `stamps` `[n, 2]` int64 (bytes, ns), `about` JSON |
| `parquet` | the columns of the index, and its metadata |
| `clip-retrieval` | a folder: `img_emb/img_emb_0.npy` `[n, dim]` float16, `metadata/metadata_0.parquet` `image_path` |
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pecore.errors import InputError
from pecore.files import replacing
from pecore.index import Index, to_matrix
from pecore.index_writer import ImageFile, IndexWriter

FORMATS = {"lance": ".lance", "npz": ".npz", "parquet": ".parquet", "clip-retrieval": ""}
"""Format -> how the names of its files end."""

IMPORT_ROWS = 16384
"""Rows of a commit when another form is imported."""


def format_of(out: str, chosen: str | None) -> str:
    """The format that --format names, or else that the name's ending means.

    Raises:
        InputError: no such format, an ending that means none, or one that means another.
    """
    by_suffix = {suffix: name for name, suffix in FORMATS.items() if suffix}
    suffix = Path(out.rstrip("/")).suffix
    if chosen is None:
        if suffix not in by_suffix:
            raise InputError(f"an index is a .lance folder, not {Path(out).name}; give --out {Path(out).stem}.lance")
        return by_suffix[suffix]
    if chosen not in FORMATS:
        raise InputError(f"there is no format {chosen!r}; take one of {', '.join(FORMATS)}")
    if by_suffix.get(suffix, "clip-retrieval") != chosen:
        raise InputError(
            f"--format {chosen} and {Path(out).name} don't go together; name {FORMATS[chosen] or 'a folder'}"
        )
    return chosen


def export_index(index: Index, out: Path, form: str) -> None:
    """Write an index to a file, or a folder, in another form; what was there is replaced.

    Raises:
        InputError: a place that can't be written.
    """
    write = {"npz": _write_npz, "parquet": _write_parquet, "clip-retrieval": _write_clip_retrieval}[form]
    try:
        write(index, out)
    except OSError as error:
        raise InputError(
            f"{out} can't be written ({error.strerror or error}); free some space and try again"
        ) from error


def _write_npz(index: Index, out: Path) -> None:
    stamps = index.dataset.to_table(columns=["size", "modified_ns"])
    arrays = {
        "paths": np.array(index.all_paths()),
        "stamps": np.stack([stamps[name].to_numpy() for name in stamps.column_names], axis=1),
        "about": np.array(json.dumps(dict(index.about))),
    }
    with replacing(out) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            _write_npy(member, index, np.dtype("<f4"))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


def _write_npy(file: IO[bytes], index: Index, dtype: np.dtype) -> None:
    """The embeddings as an `.npy`, block by block."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": (len(index), index.dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for batch in index.rows(["embedding"]):
        file.write(np.ascontiguousarray(to_matrix(batch["embedding"]), dtype).data)


def _write_parquet(index: Index, out: Path) -> None:
    import pyarrow.parquet as pq

    schema = index.dataset.schema
    with replacing(out) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in index.rows(schema.names):
            writer.write_batch(batch)


def _write_clip_retrieval(index: Index, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    embeddings, metadata = out / "img_emb" / "img_emb_0.npy", out / "metadata" / "metadata_0.parquet"
    for path in (embeddings, metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(embeddings) as file:
        _write_npy(file, index, np.dtype("<f2"))
    schema = pa.schema([("image_path", pa.string())])
    with replacing(metadata) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in index.rows(["path"]):
            writer.write_batch(pa.record_batch([batch["path"]], schema=schema))


def import_npz(path: Path, location: str) -> int:
    """Add the rows of an index that an earlier version wrote, or that was exported, to an index; how many there are.

    Raises:
        InputError: missing, damaged or of another make, or rows of another model than the index has.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            embeddings, stamps = stored["embeddings"], stored["stamps"]
            paths, about = stored["paths"].tolist(), json.loads(str(stored["about"]))
        if embeddings.ndim != 2 or embeddings.dtype != np.float32 or not len(embeddings) == len(paths) == len(stamps):
            raise ValueError(f"{list(embeddings.shape)} {embeddings.dtype} embeddings for {len(paths)} paths")
        about["space"]["fingerprint"]
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; check the path") from error
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no index of ours ({reason}); embed the images again") from error
    images = [ImageFile(name, int(size), int(time)) for name, (size, time) in zip(paths, stamps)]
    writer = IndexWriter(location, about, embeddings.shape[1])
    for some in _slices(len(images)):
        writer.add(images[some], embeddings[some])
    writer.tidy()
    return len(images)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + IMPORT_ROWS) for start in range(0, count, IMPORT_ROWS))
