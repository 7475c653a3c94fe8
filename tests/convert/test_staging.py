"""The output folder: whole or not there."""

import errno
import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from pecore.bundle import MANIFEST, check_target, rejected, sha256, staging, write_json
from pecore.errors import InputError


def _fill(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text("{}")
    (folder / "model.tflite").write_text(text)


def _kept(target: Path, text: str) -> Path:
    with staging(target) as staged:
        _fill(staged.folder, text)
        return staged.keep()


def _fail(target: Path, error: BaseException) -> None:
    with staging(target) as staged:
        _fill(staged.folder, "half a f")
        raise error


def test_keep_moves_the_whole_folder_into_place(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out" / "bundle"
    assert _kept(target, "first") == target
    assert (target / "model.tflite").read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["bundle"]


def test_keep_replaces_an_older_bundle_and_what_was_rejected(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    _kept(target, "first")
    (target / "labels.txt").write_text("of the older bundle")
    with staging(target) as staged:
        _fill(staged.folder, "bad")
        staged.reject()
    assert rejected(target).is_dir()
    _kept(target, "second")
    assert (target / "model.tflite").read_text() == "second"
    assert sorted(p.name for p in target.iterdir()) == [MANIFEST, "model.tflite"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_what_the_user_keeps_there_stays(tmp_path: Path) -> None:
    target = _kept(tmp_path / "bundle", "first")
    write_json(target / MANIFEST, {"files": {"old.tflite": {}}, "text": {"files": {"text.tflite": {}}}})
    for name in ("old.tflite", "text.tflite", "report.json", "photos.npz", "model.tflite"):
        (target / name).write_text("before")
    (target / "cache").mkdir()
    _kept(target, "second")
    assert sorted(p.name for p in target.iterdir()) == ["cache", MANIFEST, "model.tflite", "photos.npz"]
    assert (target / "model.tflite").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_reject_leaves_the_target_alone(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    _kept(target, "good")
    for attempt in ("bad", "worse"):
        with staging(target) as staged:
            _fill(staged.folder, attempt)
            place = staged.reject()
        assert place == tmp_path / "bundle.rejected"
        assert (place / "model.tflite").read_text() == attempt
    assert (target / "model.tflite").read_text() == "good"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "bundle.rejected"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_an_error_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    _kept(target, "good")
    with pytest.raises(type(error)):
        _fail(target, error)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert (target / "model.tflite").read_text() == "good"


def test_what_is_neither_kept_nor_rejected_is_deleted(tmp_path: Path) -> None:
    with staging(tmp_path / "bundle") as staged:
        _fill(staged.folder, "undecided")
        assert staged.folder.parent == tmp_path  # one file system: moving is renaming
    assert not list(tmp_path.iterdir())


def test_files_can_be_read_by_everyone(tmp_path: Path) -> None:
    with staging(tmp_path / "bundle") as staged:
        _fill(staged.folder, "x")
        (staged.folder / "model.tflite").chmod(0o600)
        (staged.folder / "plots").mkdir(0o700)
        target = staged.keep()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (target, *target.iterdir())}
    assert modes == {"bundle": 0o755, MANIFEST: 0o644, "model.tflite": 0o644, "plots": 0o755}


def test_only_bundles_and_empty_folders_are_replaced(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    check_target(photographs)  # empty
    (photographs / "me.jpg").write_text("precious")
    with (
        pytest.raises(InputError, match=r"photographs is not empty and holds no manifest\.json.*--out"),
        staging(photographs),
    ):
        pass
    assert (photographs / "me.jpg").read_text() == "precious"
    with pytest.raises(InputError, match=r"me\.jpg is a file; give --out a folder"):
        check_target(photographs / "me.jpg")
    with (
        pytest.raises(InputError, match=r"me\.jpg is a file; give --out a folder"),
        staging(photographs / "me.jpg" / "bundle"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["photographs"]


def test_a_folder_that_can_t_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match="can't be written to; give --out another folder"):
        check_target(tmp_path / "bundle")


@pytest.mark.parametrize(("number", "theirs"), [(errno.ENOSPC, False), (errno.EROFS, False), (errno.ENOENT, True)])
def test_a_full_disk_is_the_user_s_and_a_lost_file_is_ours(number: int, theirs: bool, tmp_path: Path) -> None:
    """What is no fault of the place given keeps its traceback."""
    with pytest.raises(OSError if theirs else InputError) as raised:
        _fail(tmp_path / "bundle", OSError(number, os.strerror(number)))
    assert os.strerror(number) in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_deleted(tmp_path: Path) -> None:
    """But not what a living one is at."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    folders = [tmp_path / f".bundle.{process}.abc" for process in (gone.pid, os.getpid(), "others")]
    for folder in [*folders, tmp_path / f".bundle.{gone.pid}.old"]:
        folder.mkdir()
    _kept(tmp_path / "bundle", "new")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"bundle", folders[1].name, folders[2].name, f".bundle.{gone.pid}.old"}


def test_sha256_and_json(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights" * 100_000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"weights" * 100_000).hexdigest()
    write_json(tmp_path / "j", {"label": "café"})
    assert json.loads((tmp_path / "j").read_text("utf-8")) == {"label": "café"}
    assert "café" in (tmp_path / "j").read_text("utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "j", {"figure": float("nan")})  # no JSON: other parsers choke on it
