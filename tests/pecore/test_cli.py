"""`pecore convert` and `pecore inspect` as a user meets them: exit codes, sentences, and nothing else on the screen."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table
from safetensors.torch import save_file

from pecore import variants
from pecore.cli import main
from pecore.console import progress, show
from pecore.convert.pipeline import Conversion
from pecore.convert.synthetic import synthetic_state_dict
from pecore.errors import InputError
from pecore.precision import PRECISIONS

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run(arguments...) -> exit code, stdout, stderr; in an empty folder, and every variant a tiny one."""
    small = tuple(replace(v, depth=1, image_size=4 * v.patch) for v in variants.VARIANTS)
    monkeypatch.setattr(variants, "VARIANTS", small)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*args: str | Path) -> tuple[int, str, str]:
        # Streams on the file descriptors themselves, as in a terminal: pytest's own are elsewhere.
        with (
            open(1, "w", closefd=False) as stdout,
            open(2, "w", closefd=False) as stderr,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", stderr)
            with pytest.raises(SystemExit) as ended:
                main([str(arg) for arg in args])
        return int(ended.value.code or 0), *capfd.readouterr()

    return run


def _refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a refusal, which left nothing behind."""
    code, out, err = result
    assert code == 2
    assert out == ""
    (sentence,) = _not_stages(err)
    assert sentence.startswith("error: ")
    assert "Traceback" not in err
    assert not list(Path.cwd().iterdir())
    return sentence


def _not_stages(err: str) -> list[str]:
    return [line for line in err.splitlines() if not re.fullmatch(r" *\d+\.\d s  [a-z].*", line)]


SYNTHETIC = ("--weights", "synthetic", "--no-gpu")


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize("size", ["T16", "t16"])
def test_convert(size: str, run: Run) -> None:
    code, out, err = run("convert", "--size", size, *SYNTHETIC)
    assert (code, _not_stages(err)) == (0, [])
    folder = Path.cwd() / "out" / "pe_core_tiny_384"
    assert f"Bundle: {folder}" in out.replace("\n", "")
    assert "Every gate that ran passed" in out
    assert "Synthetic weights: this graph proves the conversion and classifies nothing." in out
    assert (folder / "pe_core_tiny_384_fp16.tflite").is_file()
    for gate in ("headroom", "exact", "graph", "cpu", "gpu"):
        assert re.search(rf"^│ {gate} ", out, re.MULTILINE), gate


@pytest.mark.usefixtures("without_export")
def test_a_failed_gate_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = PRECISIONS["fp16"]
    strict = replace(row, unit={**row.unit, "cpu": {"cosine": 1.1, "norm_error": 1.0}})
    monkeypatch.setitem(PRECISIONS, "fp16", strict)  # type: ignore[misc]
    code, out, _ = run("convert", "--size", "T16", *SYNTHETIC, "--out", "there", "--json")
    assert code == 1
    report = json.loads(out)
    assert report["verdict"] == "failed"
    assert [p.name for p in Path("there").iterdir()] == ["pe_core_tiny_384.rejected"]

    code, out, _ = run("convert", "--size", "T16", *SYNTHETIC, "--out", "there")
    assert code == 1
    assert "A gate FAILED" in out
    assert "Every gate" not in out


@pytest.mark.parametrize("size", ["B32", "", "b-16"])
def test_wrong_size(size: str, run: Run) -> None:
    sentence = _refused(run("convert", "--size", size, *SYNTHETIC))
    assert f"unknown size '{size}'" in sentence
    assert "T16, S16, B16, L14, G14" in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "imagenet"), "unknown weights 'imagenet': choose hub or synthetic"),
        ((*SYNTHETIC, "--precision", "int4"), "unknown precision int4; choose from fp16, fp32, int8"),
        ((*SYNTHETIC, "--precision", "fp16,,int8"), "unknown precision"),
        ((*SYNTHETIC, "--input-layout", "hwc"), "unknown input layout hwc; choose from nchw, nhwc"),
        ((*SYNTHETIC, "--input-range", "0..1.5"), "unknown input range 0..1.5; choose from -1..1, 0..1, 0..255"),
        ((*SYNTHETIC, "--synthetic-amplitude", "1e9"), "amplitude 1e+09 is not between 0 and 100000: try 400"),
        ((*SYNTHETIC, "--images", "nowhere"), "nowhere is not a folder"),
        ((*SYNTHETIC, "--out", "/dev/null"), "/dev/null"),
        ((*SYNTHETIC, "--tower", "audio"), "unknown tower 'audio': choose vision or text"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_wrong_options(arguments: tuple[str, ...], words: str, run: Run) -> None:
    assert words in _refused(run("convert", "--size", "T16", *arguments))


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize("said", [None, "logits", "embedding"])
def test_a_head_as_wide_as_the_embedding_is_not_guessed_at(said: str | None, run: Run, tmp_path: Path) -> None:
    """512 classes, or the projection: the checkpoint does not say, and a classifier's logits are no unit vector."""
    save_file(synthetic_state_dict(variants.find("T16")), tmp_path / "tuned.safetensors")
    timm = ("--timm-model", "vit_pe_core_tiny_patch16_384", "--checkpoint", tmp_path / "tuned.safetensors", "--no-gpu")
    if said is None:
        sentence = _refused(run("convert", *timm))
        assert "tuned.safetensors has 512 outputs, as many as T16's embedding" in sentence
        assert "--output embedding, or --output logits for a classifier of 512 classes" in sentence
        return
    asked: list[str] = []

    def write(make: Callable[[], Any], inputs: object, files: object, outputs: Sequence[str], *rest: object) -> None:
        asked.extend(outputs)
        raise InputError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pecore.convert.pipeline.write_files", write)
        assert "enough" in _refused(run("convert", *timm, "--output", said))
    assert asked == [said]


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("ran",)


def test_checkpoints_that_can_t_be_used(run: Run, tmp_path: Path) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"PK\x03\x04 garbage")
    (tmp_path / "note.txt").write_text("these are no weights")
    torch.save({"head.weight": _Code()}, tmp_path / "code.pt")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps({"head.weight": _Code()}))
    for name, words in (
        ("missing.pt", "there is no checkpoint"),
        ("garbage.pt", "is damaged"),
        ("note.txt", "neither a safetensors nor a PyTorch file"),
        ("code.pt", "is refused because it pickles posix.mkdir"),
        ("bare.pkl", "is refused because it pickles"),
    ):
        sentence = _refused(run("convert", "--size", "T16", "--no-gpu", "--checkpoint", tmp_path / name))
        assert f"{tmp_path / name}" in sentence
        assert words in sentence


@pytest.mark.parametrize("verb", ["inspect", "classify", "embed"])
def test_what_the_system_refuses_is_one_sentence(verb: str, run: Run) -> None:
    """Path.is_dir and its like raise for a name that is too long, and where permission is missing."""
    name = 300 * "a"
    assert f"{name}: File name too long" in _refused(
        run(verb, name, *(("--out", "x.lance") if verb == "embed" else ()))
    )
    code, _, err = run(verb, name, "--debug", *(("--out", "x.lance") if verb == "embed" else ()))
    assert code == 2
    assert "Traceback" in err


def test_debug_brings_the_traceback_back(run: Run) -> None:
    code, _, err = run("convert", "--size", "B32", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "error: unknown size 'B32'" in err


def test_help_shows_an_example(run: Run) -> None:
    for verb, example in (
        ("convert", "pecore convert --size B16 --weights synthetic"),
        ("inspect", "pecore inspect out/pe_core_base_224/pe_core_base_224_fp16.tflite"),
    ):
        code, out, _ = run(verb, "--help")
        assert code == 0
        assert f"Example: {example}" in " ".join(out.split())
    code, out, err = run()
    assert "convert" in out + err
    for arguments in (("convert",), ("convert", "--size"), ("convert", "--sise", "T16"), ("transmogrify",)):
        code, _, err = run(*arguments)
        assert code == 2, arguments
        assert "Traceback" not in err


# inspect


def test_inspect(run: Run, tiny_result: Conversion) -> None:
    file = tiny_result.folder / "pe_core_tiny_384_fp16.tflite"
    code, out, _ = run("inspect", file)
    assert code == 0
    assert "Nothing that the rules for LiteRT" in out
    code, out, _ = run("inspect", file, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["ops"], facts["max_rank"], facts["findings"]) == (95, 4, [])
    assert facts["bytes"] == file.stat().st_size
    assert sum(facts["ops_by_name"].values()) == facts["ops"]
    assert facts["inputs"][0].endswith(" float32 [1, 3, 64, 64]")


def test_inspect_finds_what_ml_drift_refuses(run: Run, tiny_result: Conversion) -> None:
    """int8 of a runtime that refused such Linears on a phone."""
    file = tiny_result.folder / "pe_core_tiny_384_int8.tflite"
    code, out, _ = run("inspect", file, "--runtime", "2.1.3")
    assert code == 1
    assert "FULLY_CONNECTED" in out
    code, out, _ = run("inspect", file, "--runtime", "2.1.3", "--json")
    assert code == 1
    assert {f["verdict"] for f in json.loads(out)["findings"]} == {"refused"}


def test_inspect_of_what_is_no_model(run: Run, tmp_path: Path, tiny_result: Conversion) -> None:
    (tmp_path / "photo.tflite").write_bytes(b"\xff\xd8 not a model")
    whole = (tiny_result.folder / "pe_core_tiny_384_fp16.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[:5000])
    for name, words in (
        ("missing.tflite", "does not exist"),
        ("photo.tflite", "is not a .tflite file"),
        ("cut.tflite", "damaged or truncated"),
        ("", "is not a file"),
    ):
        assert words in _refused(run("inspect", tmp_path / name))
    refused = _refused(run("inspect", tiny_result.folder / "pe_core_tiny_384_fp16.tflite", "--runtime", "1.0"))
    assert "runtime '1.0' is not one that the rules know" in refused


# In a process of its own, as users have it.


def test_hub_out_of_reach(tmp_path: Path) -> None:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    env.pop("HF_HUB_CACHE", None)
    command = [sys.executable, str(ROOT / "convert_pecore.py"), "--size", "T16", "--no-gpu"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: model.safetensors of timm/vit_pe_core_tiny_patch16_384.fb could not be fetched")
    assert "--checkpoint FILE" in sentence
    assert "--weights synthetic" in sentence
    assert not (tmp_path / "out").exists()


def test_a_conversion_ended_by_a_signal_leaves_nothing(tmp_path: Path) -> None:
    """kill, of the command itself, in the middle of the work."""
    command = [sys.executable, "-c", TINY, "convert", "--size", "T16", *SYNTHETIC]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = []
        for line in child.stderr:
            said.append(line)
            if "measuring headroom" in line:
                (hidden,) = (tmp_path / "out").iterdir()
                assert hidden.name.startswith(".pe_core_tiny_384.")
                child.terminate()
    assert child.returncode == 128 + signal.SIGTERM, said
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in "".join(said)


TINY = """
import dataclasses, sys
from pecore import variants
variants.VARIANTS = tuple(dataclasses.replace(v, depth=1, image_size=64) for v in variants.VARIANTS)
from pecore.cli import main
main(sys.argv[1:])
"""


def test_a_whole_conversion_prints_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    """Export, quantizer, runtimes and Python's warnings are all loud; stdout is the report, stderr the stages."""
    arguments = ["convert", "--size", "T16", *SYNTHETIC, "--input-layout", "nhwc", "--input-range", "0-255", "--json"]
    command = [sys.executable, "-c", TINY, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "passed"
    assert _not_stages(done.stderr) == []
    assert "converting to float32 .tflite" in done.stderr
    folder = tmp_path / "out" / "pe_core_tiny_384"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert (manifest["input"]["layout"], manifest["input"]["range"]) == ("nhwc", "0..255")
    assert manifest["input"]["shape"] == [1, 64, 64, 3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [("list",), ("inspect", "there.tflite", "--json")])
def test_a_full_disk_is_one_sentence(arguments: tuple[str, ...], tmp_path: Path, tiny_result: Conversion) -> None:
    shutil.copy(tiny_result.folder / "pe_core_tiny_384_fp16.tflite", tmp_path / "there.tflite")
    command = [sys.executable, "-c", "from pecore.cli import main; main()", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("error", "shown"),
    [(OSError("unexpected"), True), (RuntimeError("unexpected"), True), (InputError("a sentence"), False)],
)
def test_the_libraries_last_words_are_shown_after_an_unexpected_error(
    error: Exception, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with progress() as log:
            log("starting")
            os.write(2, b"first words" + 5000 * b".")
            os.write(1, b"last words")
            raise error

    with pytest.raises(type(error)):
        fail()
    out, err = capfd.readouterr()
    assert out == ""
    assert "starting" in err
    assert ("last words" in err) == shown
    assert "first words" not in err


def test_nothing_printed_is_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("label", title="[/b] :cat:")
    table.add_row("[red]x[/]")
    show("pip install 'pecore-litert[bench]'", "[/b]", table)
    out = capsys.readouterr().out
    for text in ("'pecore-litert[bench]'", "[/b]\n", "[/b] :cat:", "[red]x[/]"):
        assert text in out


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 7 GB")]
)
def test_out_of_memory_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr("pecore.cli.app", fail)
    with pytest.raises(SystemExit) as stop:
        main(["convert"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: this machine is out of memory: end other programs, or use a larger one\n"
    )
