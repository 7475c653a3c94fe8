"""A labelled folder: one folder of images a class, and which label each class is.

A class is paired with a label by what its folder is called: like the label; by a WordNet id, as ImageNet names its
folders; or by a number, the label's place. That as many classes as labels are there pairs nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from pecore.errors import InputError
from pecore.image_files import OUTSIDE, survey_images
from pecore.image_formats import image_suffixes
from pecore.labels import plain_name

WNID_DIGITS = 8
SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """An image and its true label's place in the label set."""

    path: Path
    target: int


@dataclass(frozen=True)
class Dataset:
    """What a folder holds. paired: how classes were paired with labels, in a sentence. left_out: as in `Survey`."""

    samples: Sequence[Sample]
    paired: str
    left_out: Mapping[str, int]


def read_dataset(folder: Path, labels: Sequence[str]) -> Dataset:
    """The images of an ImageFolder, each with its label's place in `labels`.

    Names are compared whatever their case, `_` for a space, and the form of Unicode they are in.

    Raises:
        InputError: no class folders, an empty one, or one that no label or several labels are for.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one with a folder of images for each class")
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    classes = [p for p in entries if p.is_dir()]
    if not classes:
        raise InputError(f"{folder} has no folders in it; it needs one for each class, named like its label")
    places, paired = _pair(folder, [p.name for p in classes], labels)
    left_out = Counter({OUTSIDE: sum(p.suffix.lower() in image_suffixes() for p in entries if p.is_file())})
    samples = []
    for path in classes:
        found = survey_images([path])
        left_out.update(found.left_out)
        samples += [Sample(image, places[path.name]) for image in found.images]
    return Dataset(samples, paired, +left_out)


def _pair(folder: Path, classes: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, int], str]:
    """The label's place of each class, and how they were paired."""
    known = _places(labels)
    unknown = [name for name in classes if plain_name(name) not in known]
    if not unknown:
        doubtful = [name for name in classes if len(known[plain_name(name)]) > 1]
        if doubtful:
            raise InputError(f"several labels are called {doubtful[0]!r}; make label embeddings with distinct names")
        return {name: known[plain_name(name)][0] for name in classes}, "classes are paired with labels by name"
    if all(_is_wnid(name) for name in classes):
        return _by_wnid(folder, classes, labels), "classes are WordNet ids, paired with labels by ImageNet's table"
    if all(name.isascii() and name.isdecimal() for name in classes):
        places = _by_position(folder, classes, labels)
        shown = [f"{name} is {labels[places[name]]!r}" for name in sorted(classes, key=int)[:SHOWN]]
        return places, f"classes are numbers, taken as the labels' places from 0: {', '.join(shown)}, ..."
    raise InputError(
        f"{folder} has classes that are no labels of the bundle ({_some(unknown)}); rename the folders like labels, or "
        "make label embeddings for them: `pecore labels --labels FILE`"
    )


def _places(labels: Sequence[str]) -> dict[str, list[int]]:
    known: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        known.setdefault(plain_name(label), []).append(i)
    return known


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _is_wnid(name: str) -> bool:
    digits = name[1:]
    return name[:1] == "n" and len(digits) == WNID_DIGITS and digits.isascii() and digits.isdecimal()


def _by_wnid(folder: Path, classes: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    names = imagenet_names()
    strange = [wnid for wnid in classes if wnid not in names]
    if strange:
        raise InputError(
            f"{folder} has classes that are none of ImageNet's 1000 ({_some(strange)}); rename the folders like labels"
        )
    if in_imagenet_s_order(labels):
        order = {wnid: place for place, wnid in enumerate(names)}
        return {wnid: order[wnid] for wnid in classes}
    known = _places_of_parts(labels)
    places: dict[str, int] = {}
    for wnid in classes:
        found = {place for name in names[wnid] for place in known.get(plain_name(name), ())}
        taken = found & set(places.values())
        if len(found) != 1 or taken:
            what = (
                "no label is" if not found else f"{len(found)} labels are" if not taken else "another class's label is"
            )
            raise InputError(
                f"{folder / wnid} is {' or '.join(map(repr, names[wnid][:SHOWN]))}, and {what} called that; rename the "
                "folder like its label, or use ImageNet's own: `pecore labels --labels imagenet`"
            )
        places[wnid] = found.pop()
    return places


def _by_position(folder: Path, classes: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    places = {name: int(name) for name in classes}
    distinct = len(set(places.values())) == len(places)
    if not distinct or 0 not in places.values() or max(places.values()) >= len(labels):
        raise InputError(
            f"{folder} has folders called by numbers ({_some(sorted(classes, key=int))}), which are no labels' places: "
            f"those of {len(labels)} labels are 0 to {len(labels) - 1}, and 0 has to be there; rename the folders like "
            "labels"
        )
    return places


@cache
def imagenet_names() -> dict[str, tuple[str, ...]]:
    """WordNet id -> names, of ImageNet's 1000 classes in their order: open_clip's name first, then WordNet's."""
    rows = (files("pecore") / "imagenet.tsv").read_text(encoding="utf-8").splitlines()
    return {wnid: tuple(names) for wnid, *names in (row.split("\t") for row in rows)}


def in_imagenet_s_order(labels: Sequence[str]) -> bool:
    """Whether labels are those of ImageNet's 1000 classes in their order. Some may be called otherwise than in our
    table, but none what another class is called there."""
    names = [{plain_name(name) for name in some} for some in imagenet_names().values()]
    if len(labels) != len(names):
        return False
    known = set[str]().union(*names)
    strange = 0
    for label, own in zip(labels, names):
        parts = _parts(label)
        strange += not parts & own
        if not parts & own and parts & known:
            return False
    return strange < len(names) / 2


def _places_of_parts(labels: Sequence[str]) -> dict[str, set[int]]:
    known: dict[str, set[int]] = {}
    for i, label in enumerate(labels):
        for part in _parts(label):
            known.setdefault(part, set()).add(i)
    return known


def _parts(label: str) -> set[str]:
    """A label, and the names in it where it lists several: `tench, Tinca tinca`."""
    return {plain_name(part) for part in (label, *label.split(","))}
