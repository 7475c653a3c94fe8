"""The output folder: made aside, moved into place when it is whole."""

import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pecore.bundle import (
    FIXED_NAMES,
    MANIFEST,
    TEXT_REFERENCE,
    TEXT_REPORT,
    Manifest,
    Origin,
    damaged,
    different_checkpoint,
    read_manifest,
    require_same_checkpoint,
)
from pecore.errors import InputError
from pecore.files import write_json
from pecore.variants import Variant

OLD = ".old"
"""Suffix of the bundle that was in the target, while the new one takes its place."""

UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""What the system says when it is the place that is at fault, not the program."""

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end, and by default end it without cleaning up: `kill`, a terminal that is closed."""

UNLISTED = {"labels": (), "text": (TEXT_REPORT, TEXT_REFERENCE)}
"""Section of the manifest -> files that belong to it and that it does not list."""


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
            try:
                self.folder.rename(place)
            except BaseException:  # an interrupt, too: never neither of the two
                if not place.exists():
                    old.rename(place)
                raise
            for path in foreign(old) if keeps else ():
                if not (place / path.name).exists():
                    path.rename(place / path.name)
            shutil.rmtree(old)
        else:
            self.folder.rename(place)
        return place

    def add(self, manifest: Manifest) -> Path:
        """Move the staged files into the bundle that is there and, last, put its new manifest in place; the folder.

        Where the process is killed between two of the moves, the files no longer match the manifest's sha256, and
        readers say so.
        """
        written = self.folder / MANIFEST
        write_json(written, manifest.as_json())
        if not self.target.exists():
            return self.keep()
        for file in self.folder.iterdir():
            file.chmod(0o644)
            if file != written:
                os.replace(file, self.target / file.name)
        os.replace(written, self.target / MANIFEST)
        return self.target


def foreign(folder: Path) -> list[Path]:
    """What lies in a bundle's folder and no conversion wrote: an index, a report, a cache."""
    try:
        listed = read_manifest(folder).files.keys()
    except InputError:
        listed = {}.keys()
    return [path for path in folder.iterdir() if path.name not in FIXED_NAMES | listed]


def _clear_leftovers(target: Path) -> None:
    """Delete what a run left beside the target because it was killed, for want of memory, say."""
    start = f".{target.name}."
    for folder in target.parent.iterdir():
        process = folder.name.removeprefix(start).partition(".")[0] if folder.name.startswith(start) else ""
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
def _signals_end_it() -> Iterator[None]:
    """Make `ENDING` raise SystemExit with a shell's exit code, 128 + number, as Ctrl-C raises KeyboardInterrupt. One
    that somebody else handles, or that is ignored (nohup), is left alone; so are all outside the main thread, where
    Python lets nobody handle them."""

    def end(number: int, frame: object) -> None:
        for another in ours:  # a second one does not interrupt the cleaning
            signal.signal(another, signal.SIG_IGN)
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    ours = [s for s in ENDING if main and signal.getsignal(s) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def staging(target: Path) -> Iterator[Staging]:
    """A `Staging` for `target`; whatever is not kept or rejected by the end, by an error, or by a signal that asks the
    process to end, is deleted. What a killed process left is deleted by the next one in the same place."""
    with _signals_end_it(), _staging(target) as staged:
        yield staged


@contextmanager
def _staging(target: Path) -> Iterator[Staging]:
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


def manifest_to_extend(folder: Path, variant: Variant, section: str, weights: Origin) -> Manifest:
    """The manifest in `folder`, or the beginning of one where the folder is empty or not there yet.

    Args:
        section: about to be written, so that what it holds already does not matter.
        weights: of its text tower.

    Raises:
        InputError: the folder is not a bundle's, or is one of another variant or another checkpoint.
    """
    check_target(folder)
    if not (folder / MANIFEST).is_file():
        return Manifest(variant.artefact, variant)
    manifest = read_manifest(folder)
    there = {"vision": manifest.vision, "labels": manifest.labels, "text": manifest.text}
    others = [about.weights for name, about in there.items() if about is not None and name != section]
    compared: list[Origin | None] = [*others] or [None]
    for other in compared:
        require_same_checkpoint(weights, variant.size, other, manifest.variant.size, str(folder))
    return manifest


def carry_over(old: Path, manifest: Manifest, folder: Path) -> tuple[Manifest, list[str]]:
    """Take labels and text tower from the bundle in `old`, which is about to be replaced, into the new one.

    Args:
        manifest: of the new bundle, with a vision tower.
        folder: of the new bundle; gets the files.

    Returns:
        The manifest with those sections, and the sections that were left behind, because they belong to other weights
        or their files are not whole.
    """
    try:
        before = read_manifest(old)
    except InputError:
        return manifest, []
    assert manifest.vision is not None
    own, left = manifest.vision.weights, []
    for name, unlisted in UNLISTED.items():
        section = getattr(before, name)
        if section is None:
            continue
        same_size = before.variant.size == manifest.variant.size
        others = not same_size or different_checkpoint(section.weights, own)
        if others or damaged(old, section.files):
            left.append(name)
            continue
        for file in (*section.files, *unlisted):
            shutil.copy2(old / file, folder / file)
        manifest = replace(
            manifest,
            logit_scale=before.logit_scale or manifest.logit_scale,
            prompt_templates=before.prompt_templates or manifest.prompt_templates,
            **{name: section},
        )
    return manifest, left
