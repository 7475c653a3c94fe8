"""The output folder: whole or not there."""

import errno
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pecore.bundle import (
    MANIFEST,
    FileEntry,
    LabelsSection,
    Manifest,
    Origin,
    TensorEntry,
    TextSection,
    VisionSection,
    file_entry,
)
from pecore.convert.staging import carry_over, check_target, rejected, staging
from pecore.errors import InputError
from pecore.files import write_json
from pecore.variants import find

B16 = find("B16")
SYNTHETIC = Origin("synthetic", "synthetic, seed 0", True, seed=0)


def vision_section(files: dict[str, FileEntry], weights: Origin = SYNTHETIC) -> VisionSection:
    image = TensorEntry("image", "float32", [1, 3, 224, 224], "nchw", "-1..1")
    return VisionSection(weights, files, image, [TensorEntry("embedding", "float32", [1, 1024])], {}, {}, {}, {})


def text_section(files: dict[str, FileEntry]) -> TextSection:
    tokens = TensorEntry("tokens", "int32", [1, 32])
    embedding = TensorEntry("text_embedding", "float32", [1, 1024])
    return TextSection(files, tokens, embedding, 32, 49406, 49407, 90.0, SYNTHETIC)


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
    vision, text = vision_section({"old.tflite": FileEntry(0, "")}), text_section({"text.tflite": FileEntry(0, "")})
    write_json(target / MANIFEST, Manifest("b16", B16, vision, text=text).as_json())
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


# What a new vision tower keeps of the bundle it replaces.


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "labels.txt").write_text("cat\n")
    labels = LabelsSection({"labels.txt": file_entry(folder / "labels.txt")}, 1, 1024, 90.0, SYNTHETIC)
    manifest = Manifest("b16", B16, labels=labels, logit_scale=90.0, prompt_templates=["a {}"])
    write_json(folder / MANIFEST, manifest.as_json())
    return folder


def new(seed: int = 0) -> Manifest:
    return Manifest("b16", B16, vision_section({}, replace(SYNTHETIC, seed=seed)), logit_scale=100.0)


def test_labels_of_the_same_weights_stay(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    manifest, left = carry_over(old, new(), folder)
    assert left == []
    assert (folder / "labels.txt").read_text() == "cat\n"
    assert manifest.labels is not None
    assert manifest.labels.weights == SYNTHETIC
    assert (manifest.logit_scale, manifest.prompt_templates) == (90.0, ["a {}"])


def test_labels_of_other_weights_are_left_and_named(old: Path, tmp_path: Path) -> None:
    manifest, left = carry_over(old, new(seed=1), tmp_path)
    assert left == ["labels"]
    assert manifest.labels is None
    assert not (tmp_path / "labels.txt").exists()


def test_damaged_labels_are_left_and_named(old: Path, tmp_path: Path) -> None:
    (old / "labels.txt").write_text("dog\n")
    assert carry_over(old, new(), tmp_path) == (new(), ["labels"])


def test_nothing_before_nothing_kept(tmp_path: Path) -> None:
    assert carry_over(tmp_path / "none", new(), tmp_path) == (new(), [])


# A process that is asked to end, as real ones are.

CHILD = """
import sys, time
from pathlib import Path
from pecore.convert.staging import staging
with staging(Path(sys.argv[1])) as staged:
    (staged.folder / "model.tflite").write_bytes(bytes(1000))
    print("ready", flush=True)
    time.sleep(60)
"""


def _ended_by(number: int, target: Path, ignoring: bool = False) -> tuple[int, list[str]]:
    """A child that is in the middle of a bundle gets a signal: its exit code, and what lies beside the target."""
    # Set either way: what a job in the background ignores, its children ignore too.
    handler = "SIG_IGN" if ignoring else "default_int_handler" if number == signal.SIGINT else "SIG_DFL"
    start = "" if number == signal.SIGKILL else f"import signal; signal.signal({number}, signal.{handler})"
    script = f"{start}\n{CHILD}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        if ignoring:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.5)
            child.kill()
        return child.wait(), [p.name for p in target.parent.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_asked_to_end_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    code, left = _ended_by(number, tmp_path / "bundle")
    assert code in (128 + number, -number)  # Python ends itself by SIGINT
    assert left == []


def test_what_a_killed_process_leaves_the_next_one_deletes(tmp_path: Path) -> None:
    code, left = _ended_by(signal.SIGKILL, tmp_path / "bundle")
    assert code == -signal.SIGKILL
    assert len(left) == 1
    assert left[0].startswith(".bundle.")
    _kept(tmp_path / "bundle", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """nohup: a terminal that closes ends nothing."""
    code, _ = _ended_by(signal.SIGHUP, tmp_path / "bundle", ignoring=True)
    assert code == -signal.SIGKILL  # only then


def test_handlers_are_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with staging(tmp_path / "bundle"):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_an_interrupt_between_two_moves_loses_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = _kept(tmp_path / "bundle", "good")
    rename = Path.rename

    def interrupted(path: Path, place: Path) -> Path:
        if place == target and path.name.startswith(".bundle.") and path.suffix != ".old":
            raise KeyboardInterrupt
        return rename(path, place)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _kept(target, "new")
    assert (target / "model.tflite").read_text() == "good"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
