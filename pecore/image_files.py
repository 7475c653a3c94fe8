"""Which images files and folders hold, and what is left out: nothing is left out without being counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pecore.errors import InputError
from pecore.image_formats import CONVERT, CONVERT_HEIC, HEIF, READ, image_suffixes, kind_left_out, seems_to_be


@dataclass(frozen=True)
class Survey:
    """What files and folders hold: `images` that are read, and how many of each kind are not, such as HEIC."""

    images: Sequence[Path]
    left_out: Mapping[str, int]

    @property
    def note(self) -> str | None:
        """What to say of `left_out`; None where nothing was."""
        return left_out_note(self.left_out)


def left_out_note(left_out: Mapping[str, int]) -> str | None:
    """`9 files left out: 9 HEIC (convert them, or ...)`; None where there are none."""
    total = sum(left_out.values())
    if not total:
        return None
    kinds = []
    for kind, count in sorted(left_out.items()):
        plural, remedy = LEFT_OUT.get(kind, (kind, CONVERT))
        kinds.append(f"{count} {plural if count > 1 else kind} ({remedy})")
    return f"{total} file{'s' * (total > 1)} left out: {', '.join(kinds)}"


BROKEN_LINK, NO_ENDING, CLOSED = "broken link", "image without an ending", "folder that can't be opened"
OUTSIDE = "image outside the folders of classes"
LEFT_OUT = {
    "HEIC": ("HEIC", CONVERT_HEIC),
    BROKEN_LINK: ("broken links", "what they point at is gone"),
    NO_ENDING: ("images without an ending", "rename them, as in photo.jpg"),
    CLOSED: ("folders that can't be opened", "check their permissions"),
    OUTSIDE: ("images outside the folders of classes", "move them into one"),
}
"""Kinds of files that are left out -> several of them, and what to do, where it isn't `CONVERT`."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """`survey_images` for those that don't ask what is left out."""
    return list(survey_images(paths).images)


def survey_images(paths: Sequence[Path]) -> Survey:
    """Files as they are named, and every image under folders, in the order of their names, each once.

    Links to folders are followed, each folder once. Hidden files and folders are left out; a file named outright is
    taken whatever its ending.

    Raises:
        InputError: a path that does not exist, or a folder without any image.
    """
    found: dict[Path, None] = {}
    left_out: Counter[str] = Counter()
    for path in paths:
        if os.path.isdir(path):  # unlike `Path`, without errors about names that are too long
            inside = _survey_folder(path)
            if not inside.images:
                note = f" ({inside.note})" if inside.note else ""
                raise InputError(
                    f"there is no image file in {path}{note}; name a folder with photographs (JPEG, PNG, ...)"
                )
            found.update(dict.fromkeys(inside.images))
            left_out.update(inside.left_out)
        else:
            _check_there(path)
            found[path] = None
    return Survey(list(found), left_out)


def _check_there(path: Path) -> None:
    try:
        os.stat(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; name an image file or a folder of them") from error
    except (OSError, ValueError) as error:  # a name too long, a link that leads to itself; ValueError: a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {reason}; name an image file or a folder of them") from error


def _survey_folder(folder: Path) -> Survey:
    suffixes, left_out = image_suffixes(), Counter[str]()
    images = []
    for entry in _files(folder, left_out):
        suffix = Path(entry.name).suffix.lower()
        if not os.path.isfile(entry.path):
            left_out[BROKEN_LINK] += entry.is_symlink() and not os.path.exists(entry.path) and suffix in suffixes
        elif suffix in suffixes:
            images.append(Path(entry.path))
        elif kind := kind_left_out(suffix) if suffix else _kind_by_content(Path(entry.path)):
            left_out[kind] += 1
    return Survey(sorted(images), +left_out)


def _files(folder: Path, left_out: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Everything under a folder that is no folder and not hidden. Links to folders come after the folders themselves,
    and only what has not been seen is entered: a loop ends, and a picture has one path."""
    seen: set[tuple[int, int]] = set()
    folders, links = [str(folder)], list[str]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as scan:
                entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            left_out[CLOSED] += 1
            continue
        for entry in entries:
            if not os.path.isdir(entry.path):
                yield entry
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                folders.append(entry.path)


def _kind_by_content(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            what = seems_to_be(file.read(64))
    except OSError:
        return None
    return NO_ENDING if what in READ or what == HEIF else None
