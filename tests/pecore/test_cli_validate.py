"""`pecore validate`: what it says, and its exit codes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pecore.cli import main
from pecore.validate import gates
from pecore.validate.bundle import Options, validate
from pecore.validate.gates import Check

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["validate", *map(str, args), "--no-gpu"])
        return ended.value.code or 0, *capfd.readouterr()

    return run


def test_a_good_bundle(run: Run, tiny_bundle: Path) -> None:
    code, out, _ = run(tiny_bundle, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["verdict"] == "passed"
    assert {g["gate"] for g in report["gates"]} == {"files", "exact", "headroom", "graph", "cpu", "gpu"}


def test_a_failed_gate_is_exit_code_1(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    with np.load(tiny_bundle / "reference.npz") as stored:
        np.savez(tmp_path / "other.npz", image=stored["image"], embedding=stored["embedding"][..., ::-1])
    code, out, _ = run(next(tiny_bundle.glob("*fp16.tflite")), "--reference", tmp_path / "other.npz")
    assert code == 1
    assert "failed" in out
    assert "must be >= 0.99999" in " ".join(out.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--runtime", "1.0"), "runtime '1.0' is not one that the rules know"),
        (("--reference", "none.npz"), "none.npz can't be read"),
    ],
)
def test_what_can_not_be_used_is_exit_code_2(run: Run, args: tuple[str, ...], words: str, tiny_bundle: Path) -> None:
    code, _, err = run(next(tiny_bundle.glob("*fp16.tflite")), *args)
    assert code == 2
    assert words in " ".join(err.split())


def test_what_the_gpu_refuses_of_a_text_tower_is_reported_only(
    tiny_bundle: Path, text_section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it was converted: it is for the CPU."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["text"] = json.loads((text_section / "manifest.json").read_text())["text"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in (*manifest["text"]["files"], "reference_text.npz"):
        shutil.copy(text_section / name, folder)
    judge = gates.graph_gate

    def refused(path: Path, runtime: str) -> Check:
        check = judge(path, runtime)
        return replace(check, outcome="failed", detail="55 findings") if "_text_" in path.name else check

    monkeypatch.setattr(gates, "graph_gate", refused)
    found = {(c.gate, "_text_" in c.subject): c for c in validate(folder, Options(gpu="skip"), lambda line: None)}
    assert found["graph", True].outcome == "skipped"
    assert found["graph", True].detail == "reported only, this tower is for the CPU: 55 findings"
    assert (found["cpu", True].outcome, found["graph", False].outcome) == ("passed", "passed")
