import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pecore.cli import main
from pecore.errors import InputError
from pecore.image_files import find_images, left_out_note, survey_images
from pecore.video import video_frames

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photos/a.jpg, photos/sub/b.PNG and a text."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.PNG"):
        Image.new("RGB", (20, 16), "red").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("nothing to see")
    return tmp_path / "photos"


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_images([folder])]


def test_files_and_folders_each_once(folder: Path) -> None:
    assert names(folder) == ["a.jpg", "sub/b.PNG"]
    given = [folder / "sub", folder, folder / "a.jpg", folder / "notes.txt"]
    assert find_images(given) == [folder / "sub" / "b.PNG", folder / "a.jpg", folder / "notes.txt"]
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "a.jpg", folder / ".hidden" / "c.jpg")
    shutil.copy(folder / "a.jpg", folder / "._a.jpg")
    assert survey_images([folder]).left_out == {}
    assert names(folder) == ["a.jpg", "sub/b.PNG"]


def test_what_is_not_there(folder: Path) -> None:
    for missing, said in (("none.jpg", r"there is no .*none\.jpg"), ("x" * 5000, "File name too long")):
        with pytest.raises(InputError, match=f"{said}; name an image file or a folder"):
            find_images([folder / missing])


def test_links_to_folders_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "a.jpg", tmp_path / "elsewhere" / "far.jpg")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / "0_same").symlink_to(folder / "sub")  # the folder itself gives its pictures their paths
    assert names(folder) == ["a.jpg", "again/far.jpg", "sub/b.PNG"]
    (tmp_path / "photos_by_link").symlink_to(folder)
    assert len(find_images([tmp_path / "photos_by_link"])) == 3


def test_a_link_to_a_picture_is_one_and_a_broken_one_is_counted(folder: Path) -> None:
    (folder / "c.jpg").symlink_to(folder / "a.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    (folder / "self.png").symlink_to("self.png")
    survey = survey_images([folder])
    assert [path.name for path in survey.images] == ["a.jpg", "c.jpg", "b.PNG"]
    assert survey.left_out == {"broken link": 2}
    assert survey.note == "2 files left out: 2 broken links (what they point at is gone)"


def test_formats_that_are_not_read_are_counted(folder: Path, without_heif: None) -> None:
    for i in range(9):
        (folder / f"IMG_{i}.{'HEIC' if i else 'heif'}").write_bytes(HEIC)
    survey = survey_images([folder])
    assert survey.note == "9 files left out: 9 HEIC (convert them, or `pip install pillow-heif`)"
    assert names(folder) == ["a.jpg", "sub/b.PNG"]
    for name in ("x.NEF", "sub/y.cr3", "z.psd", "z.eps", "v.svg", "clip.mov", "w.h5", "w.mpg"):
        (folder / name).write_bytes(b"what")
    shutil.copy(folder / "a.jpg", folder / "unnamed")
    (folder / "README").write_text("text")
    assert survey_images([folder]).left_out == {
        "HEIC": 9,
        "RAW": 2,
        "PSD": 1,
        "EPS": 1,
        "SVG": 1,
        "image without an ending": 1,
    }
    assert "2 RAW (convert them to JPEG or PNG)" in (survey_images([folder]).note or "")
    assert left_out_note({}) is None
    assert left_out_note({"HEIC": 1}) == "1 file left out: 1 HEIC (convert them, or `pip install pillow-heif`)"


def test_heic_with_its_plugin_is_an_image_like_others(folder: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (32, 32), "red")).save(folder / "IMG.HEIC")
    survey = survey_images([folder])
    assert folder / "IMG.HEIC" in survey.images
    assert survey.left_out == {}


def test_a_folder_with_nothing_but_what_is_left_out(tmp_path: Path, without_heif: None) -> None:
    (tmp_path / "IMG.HEIC").write_bytes(HEIC)
    said = r"no image file in .* \(1 file left out: 1 HEIC \(convert them, or `pip install pillow-heif`\)\)"
    with pytest.raises(InputError, match=said):
        find_images([tmp_path])
    with pytest.raises(InputError, match=said):
        video_frames(tmp_path)


def test_a_folder_that_can_t_be_opened_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir: Callable[..., object] = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    survey = survey_images([folder])
    assert [path.name for path in survey.images] == ["a.jpg"]
    assert survey.left_out == {"folder that can't be opened": 1}


def run(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return stopped.value.code or 0, out, err


@pytest.mark.parametrize("verb", ["embed", "classify"])
def test_the_verbs_say_how_many(
    verb: str, folder: Path, tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], without_heif: None
) -> None:
    (folder / "IMG.HEIC").write_bytes(HEIC)
    more = ("--out", tmp_path / "x.npz") if verb == "embed" else ()
    for as_json in ((), ("--json",)):
        code, out, err = run(capfd, verb, folder, "--bundle", tiny_bundle, *more, *as_json)
        assert code == 0  # nothing that was asked for was skipped
        assert "1 file left out: 1 HEIC (convert them, or `pip install pillow-heif`)" in err
    assert json.loads(out)["left_out"] == {"HEIC": 1}
    code, out, err = run(capfd, verb, folder / "IMG.HEIC", folder / "a.jpg", "--bundle", tiny_bundle, *more)
    assert code == 1  # named outright, and skipped
    assert "IMG.HEIC is not an image" in err
