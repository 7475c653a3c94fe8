import unicodedata
from pathlib import Path

import open_clip
import pytest

from pecore.convert.label_files import doubtful, duplicates, read_label_names, read_templates
from pecore.errors import InputError


def test_imagenet_and_template_sets() -> None:
    assert len(read_label_names("imagenet")) == 1000
    assert duplicates(read_label_names("imagenet")) == ["missile", "sunglasses"]
    assert [len(read_templates(name)) for name in ("openai", "simple")] == [80, 7]
    for name in ("openai", "simple"):
        theirs = getattr(open_clip, f"{name.upper()}_IMAGENET_TEMPLATES")
        ours = read_templates(name)
        assert [t.replace("{}", "cat") for t in ours] == [t("cat") for t in theirs]


@pytest.mark.parametrize(
    "data",
    ["cat\nchâteau d'eau\n", "\ufeffcat\r\nchâteau d'eau\r\n\r\n", "  cat\nchâteau d'eau", "cat\rchâteau d'eau\r"],
    ids=["unix", "windows with a mark", "no last newline", "old mac"],
)
def test_label_files(data: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(data.encode())
    assert read_label_names(str(tmp_path / "l.txt")) == ["cat", "château d'eau"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"cat\n\ndog\n", "line 2 of .* is empty"),
        ("cat\nchâteau\n".encode("latin-1"), r"not UTF-8 \(line 2\)"),
        ("cat\n".encode("utf-16"), "UTF-8"),
        ("cat\n".encode("utf-16-le"), "UTF-8"),
    ],
)
def test_label_files_that_are_refused(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_label_names(str(tmp_path / "l.txt"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"imagnet.*--labels imagenet"):
        read_label_names("imagnet")
    with pytest.raises(InputError, match=str(tmp_path)):
        read_label_names(str(tmp_path))


def test_templates_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a {} in {place}\n{}\n")
    assert read_templates(str(tmp_path / "t.txt")) == ["a {} in {place}", "{}"]
    (tmp_path / "t.txt").write_text("a {}\na photo\n")
    with pytest.raises(InputError, match=r"'a photo' \(line 2 of .*\) has no \{\}"):
        read_templates(str(tmp_path / "t.txt"))


def test_duplicates_as_the_tokenizer_sees_them() -> None:
    assert duplicates(["Cat", "dog", "cat", "sea  lion", "Sea lion"]) == ["cat", "Sea lion"]
    château = [unicodedata.normalize(form, "château d'eau") for form in ("NFC", "NFD")]
    assert château[0] != château[1]
    assert duplicates(château) == château[1:]
    assert duplicates(["fish &amp; chips", "fish & chips", "don\u2019t", "don't"]) == ["fish & chips", "don't"]


# Files of another form


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        ("0 cat\n1 dog\n", 1, "begins with a number"),
        ("0 cat", 1, "begins with a number"),
        ("0: cat\n1: dog", 1, "begins with a number"),
        ("1. cat\n2. dog", 1, "begins with a number"),
        ("1) cat\n2) dog", 1, "begins with a number"),
        ("(1) cat\n(2) dog", 1, "begins with a number"),
        ("0 cat\n1 dog\n3 bird", 1, "begins with a number"),
        ('"0": "cat",\n"1": "dog"', 1, "begins with a number"),
        ('{"0": "cat"}', 1, "JSON"),
        ('{\n  "0": "cat",\n  "1": "dog"\n}\n', 1, "JSON"),
        ('["cat", "dog"]', 1, "JSON"),
        ('{"name": "cat"}\n{"name": "dog"}\n', 1, "JSON"),
        ("{0: 'tench, Tinca tinca',\n 1: 'goldfish, Carassius auratus'}", 1, "JSON"),
        ('item {\n  id: 1\n  name: "cat"\n}', 1, "a bracket"),
        ('nc: 2\nnames: ["cat", "dog"]', 2, "a bracket"),
        ("names:\n  0: cat\n  1: dog", 1, "header"),
        ("id,label\n0,cat\n1,dog", 1, "header"),
        ('class_id;class_name\n0;"cat"', 1, "header"),
        ("Label\ncat\ndog", 1, "header"),
        ("cat,0\ndog,1", 1, "commas"),
        ("cat;Katze\ndog;Hund", 1, "semicolons"),
        ("cat\ndog\tHund", 2, "a tab"),
        ("cat, dog, bird", 1, "commas between them"),
        ("cat,\ndog,\nbird", 1, "ends in a comma"),
        ('"cat"\n"dog"', 1, "in quotes"),
        ("- cat\n- dog", 1, "a bullet"),
        ("* cat\n* dog", 1, "a bullet"),
        ("n01440764 tench\nn01443537 goldfish", 1, "a WordNet id"),
        ("n01440764\nn01443537", 1, "a WordNet id"),
    ],
)
def test_files_of_another_form_are_refused_by_their_line(data: str, line: int, what: str, tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text(data)
    with pytest.raises(InputError, match=rf"l\.txt is not one label a line: line {line}, .*{what}.*; leave nothing in"):
        read_label_names(str(path))


@pytest.mark.parametrize(
    "data",
    [
        "cat",
        "cat\ndog",
        "tench, Tinca tinca\ngoldfish, Carassius auratus",
        "7-Eleven\n3D printer",
        "10-speed bike\n12-string guitar",
        "3.5 mm jack\n2.5 mm jack",
        "4:3 screen\n16:9 screen",
        "1 cat",
        "crab [food]\n<b>bold</b>",
        "cat\nlabel",
        "a,b\nc",
        "baluster / handrail\nkite (bird of prey)",
        "it's\n'tis",
        "9 to 5\ncat",
        "e-mail\nt-shirt",
    ],
)
def test_labels_that_only_look_odd_are_taken(data: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(data)
    assert read_label_names(str(tmp_path / "l.txt")) == data.split("\n")
    assert doubtful(data.split("\n")) == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1 apple", "2 apples"], "'1 apple', '2 apples' begins with a number"),
        (["3 cats", "12 cats"], "begins with a number"),
        (["7", "cat"], "'7' is a number and no name"),
        (["sea_lion", "cat"], "'sea_lion' has _"),
        (['"cat"', "dog"], "has quotes around it"),
        (["# animals", "cat"], "'# animals' looks like a comment"),
        (["cat", "Cat"], "'Cat' is there twice"),
    ],
)
def test_doubts_are_warnings(labels: list[str], said: str) -> None:
    (warning,) = doubtful(labels)
    assert said in warning


def test_imagenet_s_labels_raise_no_doubt_but_their_two_duplicates() -> None:
    (warning,) = doubtful(read_label_names("imagenet"))
    assert warning.startswith("'missile', 'sunglasses' is there twice")
