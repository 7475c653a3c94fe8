import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image

from pecore.cli import main
from pecore.dataset import imagenet_names, in_imagenet_s_order, read_dataset
from pecore.errors import InputError
from pecore.labels import plain_name

LABELS = ("cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda", "chair")
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Folders of fast.ai's Imagenette and what its authors call them."""


def make(folder: Path, classes: Sequence[str]) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / name / "0.png")
    return folder


def targets(folder: Path, labels: Sequence[str]) -> dict[str, int]:
    return {sample.path.parent.name: sample.target for sample in read_dataset(folder, labels).samples}


def test_by_name(dataset: Path) -> None:
    found = read_dataset(dataset, LABELS)
    assert [(s.path.parent.name, s.target) for s in found.samples[::3]] == [
        ("Rocket", 2),
        ("astronaut", 3),
        ("cat", 0),
        ("cup_of_coffee", 4),
    ]
    assert len(found.samples) == 12
    assert found.paired == "classes are paired with labels by name"
    assert found.left_out == {}


def test_problems(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(Rocket\).*pecore labels"):
        read_dataset(dataset, ["cat", "astronaut", "cup of coffee"])
    with pytest.raises(InputError, match="several labels are called 'cat'"):
        read_dataset(dataset, [*LABELS, "Cat"])
    with pytest.raises(InputError, match="is not a folder"):
        read_dataset(tmp_path / "nowhere", LABELS)
    with pytest.raises(InputError, match="has no folders in it"):
        read_dataset(tmp_path, LABELS)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no image file in"):
        read_dataset(tmp_path, LABELS)


@pytest.mark.parametrize(("of_folder", "of_label"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFKD", "NFC")])
@pytest.mark.parametrize("name", ["château", "Ångström", "Ελλάδα", "가방", "ﬁsh", "STRASSE/straße"])
def test_names_in_another_form_of_unicode(name: str, of_folder: str, of_label: str, tmp_path: Path) -> None:
    folder, _, label = name.partition("/")
    make(tmp_path, [unicodedata.normalize(of_folder, folder)])
    assert list(targets(tmp_path, ["cat", unicodedata.normalize(of_label, label or folder)]).values()) == [1]
    with pytest.raises(InputError, match="several labels are called"):
        targets(tmp_path, [unicodedata.normalize(form, folder) for form in ("NFC", "NFD")] + [(label or folder) + " "])


def test_plain_names() -> None:
    assert plain_name(" Sea_Lion ") == plain_name("sea  lion")
    assert plain_name("sea lion") != plain_name("sealion")


# ImageNet's folders


def test_the_table_is_imagenet_s() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert [first for first, *_ in names.values()] == list(open_clip.IMAGENET_CLASSNAMES)
    for wnid, name in IMAGENETTE.items():
        assert name in names[wnid]


@pytest.mark.parametrize("seed", range(3))
def test_ten_wnids_and_their_ten_names_in_another_order(seed: int, tmp_path: Path) -> None:
    make(tmp_path, list(IMAGENETTE))
    labels = list(IMAGENETTE.values())
    random.Random(seed).shuffle(labels)
    found = targets(tmp_path, labels)
    assert {wnid: labels[place] for wnid, place in found.items()} == IMAGENETTE
    assert "WordNet ids" in read_dataset(tmp_path, labels).paired


@pytest.mark.parametrize("labels", ["open_clip", "WordNet", "several names each"])
def test_wnids_and_all_of_imagenet_s_labels(labels: str, tmp_path: Path) -> None:
    """Places in the whole list, whatever the labels are called, duplicates among them included."""
    names = imagenet_names()
    given = {
        "open_clip": open_clip.IMAGENET_CLASSNAMES,
        "WordNet": [some[-1] if len(some) < 3 else some[1] for some in names.values()],
        "several names each": [", ".join(some) for some in names.values()],
    }[labels]
    wnids = [*IMAGENETTE, "n04355933", "n04356056", "n02012849", "n03126707"]  # sunglasses twice, cranes
    make(tmp_path, wnids)
    order = list(names)
    assert targets(tmp_path, given) == {wnid: order.index(wnid) for wnid in wnids}


def test_a_list_that_is_nearly_imagenet_s() -> None:
    labels = list(open_clip.IMAGENET_CLASSNAMES)
    assert in_imagenet_s_order(labels)
    assert in_imagenet_s_order(["a name of my own", *labels[1:]])
    labels[3], labels[4] = labels[4], labels[3]
    assert not in_imagenet_s_order(labels)
    assert not in_imagenet_s_order(sorted(open_clip.IMAGENET_CLASSNAMES))
    assert not in_imagenet_s_order([f"label {i}" for i in range(1000)])
    assert not in_imagenet_s_order(labels[:10])


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (["n01440764", "n02123045"], ("a", "b"), r"n01440764 is 'tench' or 'Tinca tinca', and no label is called that"),
        (["n00007846", "n01440764"], ("person", "tench"), r"none of ImageNet's 1000 \(n00007846\)"),
        (["n04355933", "n04356056"], ("sunglasses", "x"), "another class's label is called that"),
        (["n02012849"], ("crane", "crane bird"), "2 labels are called that"),
        (["n01440764", "cat"], ("tench", "cat"), r"no labels of the bundle \(n01440764\)"),
    ],
)
def test_wnids_that_can_t_be_paired(classes: list[str], labels: Sequence[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_dataset(make(tmp_path, classes), labels)


# Folders that are numbers


@pytest.mark.parametrize(
    ("classes", "places"),
    [
        ([str(i) for i in range(7)], list(range(7))),
        (["000", "006", "02"], [0, 6, 2]),
        ([str(i) for i in range(1000)], list(range(1000))),
    ],
)
def test_numbers_are_places_and_it_is_said(classes: list[str], places: list[int], tmp_path: Path) -> None:
    labels = LABELS if len(classes) < 1000 else open_clip.IMAGENET_CLASSNAMES
    found = read_dataset(make(tmp_path, classes), labels)
    assert {s.path.parent.name: s.target for s in found.samples} == dict(zip(classes, places))
    assert f"taken as the labels' places from 0: {classes[0]} is {labels[0]!r}" in found.paired


@pytest.mark.parametrize("classes", [["1", "2", "7"], ["1", "2", "3"], ["0", "00"], ["0", "7"], ["0", "٣"]])
def test_numbers_that_may_be_something_else(classes: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rename the folders like labels"):
        read_dataset(make(tmp_path, classes), LABELS)


def test_numbers_that_are_labels_are_names(tmp_path: Path) -> None:
    digits = ["9", "8", "0", "1"]
    assert targets(make(tmp_path, ["0", "1", "9"]), digits) == {"0": 2, "1": 3, "9": 0}


def test_as_many_classes_as_labels_pair_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no labels of the bundle \(class_a, class_b\)"):
        read_dataset(make(tmp_path, ["class_a", "class_b"]), ("cat", "dog"))


# What is left out


def test_what_is_left_out_is_counted(tmp_path: Path, without_heif: None) -> None:
    make(tmp_path / "elsewhere", ["cat"])
    make(tmp_path / "data", ["dog"])
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "elsewhere" / "cat" / "loop").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "data" / "dog" / "IMG.HEIC").write_bytes(b"heic")
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "loose.png")
    found = read_dataset(tmp_path / "data", LABELS)
    assert found.left_out == {"HEIC": 1, "image outside the folders of classes": 1}
    assert [(str(s.path.relative_to(tmp_path / "data")), s.target) for s in found.samples] == [
        ("cat/0.png", 0),
        ("dog/0.png", 1),
    ]


def test_the_verb_says_both(
    tmp_path: Path, tiny_bundle: Path, capfd: pytest.CaptureFixture[str], without_heif: None
) -> None:
    folder = make(tmp_path, ["0", "2", "3"])
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(noise).save(folder / "2" / f"{i}.png")
    (folder / "3" / "IMG.HEIC").write_bytes(b"heic")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--no-pytorch", "--dataset", str(folder), "--bundle", str(tiny_bundle), "--json"])
    out, err = capfd.readouterr()
    facts = json.loads(out)
    assert not stopped.value.code
    assert facts["left_out"] == {"HEIC": 1}
    assert "1 file left out: 1 HEIC" in err
    assert "0 is 'cat', 2 is 'rocket', 3 is 'astronaut'" in facts["paired"]
    assert facts["paired"] in err
