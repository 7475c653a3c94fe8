"""`pecore validate`: what it says, and its exit codes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pecore.cli import main
from pecore.validate import gates, npu
from pecore.validate.bundle import ValidationOptions, validate
from pecore.validate.checks import Check
from tests.graph_builder import GraphBuilder

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
    found = {
        (c.gate, "_text_" in c.subject): c
        for c in validate(folder, ValidationOptions(gpu="skip"), log=lambda line: None)
    }
    assert found["graph", True].outcome == "skipped"
    assert found["graph", True].detail == "reported only, this is for the CPU: 55 findings"
    assert (found["cpu", True].outcome, found["graph", False].outcome) == ("passed", "passed")


@pytest.fixture
def two_signatures(tmp_path: Path) -> Path:
    """`serving_default`, and a second one that ML Drift refuses."""
    first, second = GraphBuilder(), GraphBuilder()
    x, y = first.tensor(1, 4, 8), first.tensor(1, 4, 8)
    first.op("TANH", [x], y)
    u, v = second.tensor(1, 6), second.tensor(1, 6)
    second.op("SUB", [u, second.tensor(1, 6, data=1)], v, options="SubOptions")
    second.codes[0].version = 3
    return first.write(tmp_path / "two.tflite", [x], [y], second=("decode", second, [u], [v]))


def test_inspect_shows_every_signature(two_signatures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(two_signatures), "--json"])
    facts = json.loads(capfd.readouterr().out)
    assert ended.value.code == 1
    assert (facts["ops"], facts["ops_by_name"]) == (2, {"TANH": 1, "SUB": 1})
    assert facts["signatures"] == {"serving_default": 0, "decode": 1}
    assert facts["inputs"] == ["serving_default: t0 float32 [1, 4, 8]", "decode: t0 float32 [1, 6]"]
    (finding,) = facts["findings"]
    assert finding["detail"].startswith("in signature decode, SUB (op 0) is version 3, and ML Drift takes up to 2")


def test_a_file_that_fails_to_run_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    builder = GraphBuilder()
    x, index, y = builder.tensor(4, 8), builder.tensor(1, dtype="int32", data=9), builder.tensor(1, 8)
    builder.op("GATHER", [x, index], y, options="GatherOptions")
    code, out, err = run(builder.write(tmp_path / "gather.tflite", [x], [y]), "--json")
    gates = {g["gate"]: g for g in json.loads(out)["gates"]}
    assert code == 1
    assert (gates["graph"]["outcome"], gates["cpu"]["outcome"]) == ("passed", "failed")
    assert "gather index out of bounds" in gates["cpu"]["detail"]
    assert "Traceback" not in err


def test_a_machine_without_the_npu_compiler(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped with the reason, and a failure only where it is required."""
    builder = GraphBuilder()
    builder.op("LOGISTIC", [builder.tensor(1, 4)], builder.tensor(1, 4))
    path = builder.write(tmp_path / "one.tflite", [0], [1])
    monkeypatch.setattr(npu, "qnn_folder", lambda: None)
    for options, expected in (((), (0, "skipped")), (("--require-npu",), (1, "failed"))):
        code, out, _ = run(path, "--npu", "sm8850, SM8650", "--json", *options)
        (gate,) = (g for g in json.loads(out)["gates"] if g["gate"] == "npu")
        assert (code, gate["outcome"]) == expected
        assert gate["detail"] == npu.unavailable()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--npu-run",), "--npu-run needs a chip to compile for: add --npu SM8850"),
        (("--require-npu",), "--require-npu needs a chip"),
        (("--npu", "Galaxy S26"), "'GALAXY S26': no name of a Qualcomm chip"),
        (("--npu", ","), "an empty list: no name of a Qualcomm chip"),
    ],
)
def test_npu_options_that_ask_for_nothing(run: Run, tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    code, _, err = run(tmp_path / "one.tflite", *args)
    assert code == 2
    assert words in " ".join(err.split())
