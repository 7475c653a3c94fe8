"""The output folder: made aside, moved into place when it is whole."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pecore.errors import InputError

MANIFEST = "manifest.json"
REPORT = "report.json"
MODEL_CARD = "MODEL_CARD.md"
EMBEDDINGS_FILE = "text_embeddings.bin"
LABELS_FILE = "labels.txt"

HEADROOM_PLOT = "headroom.png"
TEXT_REPORT = "report_text.json"
TEXT_REFERENCE = "reference_text.npz"

BESIDE = frozenset(
    {MANIFEST, REPORT, MODEL_CARD, EMBEDDINGS_FILE, LABELS_FILE, HEADROOM_PLOT, "reference.npz"}
    | {TEXT_REPORT, TEXT_REFERENCE}
)
"""Names of what conversions write into a bundle, its models apart."""

OLD = ".old"
"""Suffix of the bundle that was in the target, while the new one takes its place."""

UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""What the system says when it is the place that is at fault, not the program."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those of a manifest's `files` that are missing in `folder` or are not the bytes it means."""
    return [n for n, f in files.items() if not (folder / n).is_file() or sha256(folder / n) != f["sha256"]]


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the one that is there."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def rejected(target: Path) -> Path:
    """Where artefacts that failed a gate are kept."""
    return target.with_name(f"{target.name}.rejected")


def check_target(target: Path) -> None:
    """Refuse to replace anything but a bundle of an earlier run or an empty folder, before the work starts."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give --out a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise InputError(
            f"{target} is not empty and holds no {MANIFEST}, so it is not a bundle of ours; give --out another folder"
        )
    parent = next(p for p in target.absolute().parents if p.exists())
    if not parent.is_dir():
        raise InputError(f"{parent} is a file; give --out a folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent} can't be written to; give --out another folder")


class Staging:
    """A folder beside the target in which a bundle grows; `keep` or `reject` moves it to where it belongs."""

    def __init__(self, folder: Path, target: Path):
        self.folder, self.target = folder, target

    def keep(self) -> Path:
        """The bundle is good: it takes the target's place, where the user's own files stay, and what an earlier run
        rejected there is gone."""
        shutil.rmtree(rejected(self.target), ignore_errors=True)
        return self._move(self.target, keeps=True)

    def reject(self) -> Path:
        """A gate failed: the bundle goes beside the target, which is left as it was."""
        return self._move(rejected(self.target))

    def _move(self, place: Path, keeps: bool = False) -> Path:
        for file in self.folder.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        self.folder.chmod(0o755)
        if place.exists():
            old = place.rename(self.folder.with_suffix(OLD))
            self.folder.rename(place)
            for path in foreign(old) if keeps else ():
                if not (place / path.name).exists():
                    path.rename(place / path.name)
            shutil.rmtree(old)
        else:
            self.folder.rename(place)
        return place


def foreign(folder: Path) -> list[Path]:
    """What lies in a bundle's folder and no conversion wrote: an index, a report, a cache."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sections = [manifest, *(manifest.get(name, {}) for name in ("labels", "text"))]
        models = {name for section in sections for name in section.get("files", ())}
    except (OSError, ValueError, AttributeError):
        models = set()
    return [path for path in folder.iterdir() if path.name not in BESIDE | models]


def _clear_leftovers(target: Path) -> None:
    """Delete what a run left beside the target because it was killed, for want of memory, say."""
    for folder in target.parent.glob(f".{target.name}.*.*"):
        process = folder.name.removeprefix(f".{target.name}.").partition(".")[0]
        if process.isdigit() and folder.suffix != OLD and not _alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's
        return True
    return True


@contextmanager
def staging(target: Path) -> Iterator[Staging]:
    """A `Staging` for `target`; whatever is not kept or rejected by the end, or by an error, is deleted."""
    check_target(target)
    target = target.absolute()
    folder = None
    made = [p for p in target.parents if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", dir=target.parent))
        yield Staging(folder, target)
    except OSError as error:
        if folder is not None and error.errno not in UNWRITABLE:
            raise
        reason = error.strerror or error
        raise InputError(
            f"{target} can't be written ({reason}): free some space or give --out another folder"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # those that are not empty
            for parent in made:
                parent.rmdir()
