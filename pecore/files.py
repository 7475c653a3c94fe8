"""Files that are written whole or not at all, their checksums, and JSON that every reader takes."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to that becomes `path` when the block ends; what was there stays if it fails."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file, or leave the one that is there."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as an indented JSON file, whole or not at all."""
    write_text(path, to_json(content) + "\n")


def to_json(content: Any, *, ascii_only: bool = False) -> str:
    """Indented JSON. NaN and infinity, which JSON has no words for, become null and the strings `inf` and `-inf`."""
    return json.dumps(json_ready(content), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def json_ready(value: Any) -> Any:
    """`value` with NaN as None and infinity as `inf` or `-inf`, all the way down."""
    if isinstance(value, Mapping):
        return {key: json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
