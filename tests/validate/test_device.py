import base64
import json
from copy import deepcopy

import numpy as np
import pytest

from pecore.bundle import FileEntry
from pecore.errors import InputError
from pecore.precision import PRECISIONS
from pecore.validate import device

FILE = "tower_fp16.tflite"
FILES = {FILE: FileEntry(bytes=1, sha256="ab" * 32, precision="fp16")}


@pytest.fixture
def reference():
    vectors = np.random.default_rng(0).normal(size=(2, 1, 64)).astype(np.float32)
    return list(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def encode(array):
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


@pytest.fixture
def report(reference):
    """A phone's that got everything right on the GPU."""
    figures = {
        "sha256": FILES[FILE].sha256,
        "kind": "gpu fp16",
        "cosine": 1.0,
        "latency_ms": {"first": 31.0, "median": 12.34, "runs": 10},
        "outputs": [encode(array) for array in reference],
    }
    gate = {"gate": "device", "subject": FILE, "backend": "LiteRT GPU fp16", "outcome": "passed", "detail": "fine"}
    return {
        "format": 1,
        "fingerprint": "cd" * 32,
        "device": {"name": "Phone", "system": "Android 16"},
        "versions": {"litert": "2.3.2"},
        "gates": [gate | {"figures": figures}],
    }


def test_right_outputs_pass(report, reference):
    (check,) = device.check_report(report, FILES, reference)
    assert check.outcome == "passed"
    assert check.figures["cosine"] == pytest.approx(1, abs=1e-12)
    assert check.thresholds == device.thresholds("fp16")["gpu fp16"]
    assert "12.3 ms" in check.detail


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rounding_and_computing_come_together(precision):
    """A file that just passes both gates passes here, and not much more does."""
    limits = device.thresholds(precision)
    row = PRECISIONS[precision]
    assert limits["cpu"] == row.thresholds("cpu")
    for kind in ("gpu fp16", "gpu fp32"):
        worst = [1 - row.thresholds("cpu")["cosine"], 1 - row.thresholds(kind)["correlation"]]
        assert sum(worst) < 1 - limits[kind]["correlation"] <= 4.01 * max(worst)


def test_each_image_of_a_batch_is_judged_by_itself(report):
    """Four unit vectors of [2, 2, 64] in two samples: one of them wrong is not made good by the one beside it."""
    vectors = np.random.default_rng(0).normal(size=(2, 2, 64)).astype(np.float32)
    batches = list(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
    figures = report["gates"][0]["figures"] | {"kind": "cpu", "outputs": [encode(batch) for batch in batches]}
    report["gates"][0]["figures"] = figures
    (check,) = device.check_report(report, FILES, batches)
    assert (check.outcome, check.thresholds) == ("passed", PRECISIONS["fp16"].thresholds("cpu"))
    other = batches[1] * np.array([[1 + 1e-3], [1 - 1e-3]], np.float32)  # the whole batch keeps its norm
    figures["outputs"] = [encode(batches[0]), encode(other)]
    (check,) = device.check_report(report, FILES, batches)
    assert check.outcome == "failed"
    assert check.figures["norm_error"] == pytest.approx(1e-3, abs=1e-6)
    assert check.figures["samples"] == 2


def test_the_figures_are_computed_again(report, reference):
    """A report that claims a cosine of 1 over wrong outputs fails."""
    report["gates"][0]["figures"]["outputs"][1] = encode(reference[1][:, ::-1])
    (check,) = device.check_report(report, FILES, reference)
    assert check.outcome == "failed"
    assert check.figures["cosine"] < 0.9


def test_scale_is_judged(report, reference):
    report["gates"][0]["figures"]["outputs"] = [encode(1.01 * array) for array in reference]
    assert "norm_error" in device.check_report(report, FILES, reference)[0].detail


def test_a_later_run_is_judged_as_well(report, reference):
    """On some GPUs only a model's first inference is right (LiteRT issue 8065)."""
    figures = report["gates"][0]["figures"]
    figures["later"] = encode(reference[0])
    (check,) = device.check_report(report, FILES, reference)
    assert (check.outcome, check.figures["samples"]) == ("passed", 2)
    figures["later"] = encode(reference[0][:, ::-1])
    assert device.check_report(report, FILES, reference)[0].outcome == "failed"
    report["gates"][0]["figures"] |= {"outputs": figures["outputs"][:1]}  # with one sample too
    assert device.check_report(report, FILES, reference[:1])[0].outcome == "failed"


def test_not_a_number_fails(report, reference):
    report["gates"][0]["figures"]["outputs"][0] = encode(np.full((1, 64), np.nan))
    assert device.check_report(report, FILES, reference)[0].outcome == "failed"


def test_a_refusal_keeps_its_reason(report, reference):
    gate = report["gates"][0] | {"outcome": "failed", "detail": "op 12 is not accelerated"}
    del gate["figures"]["outputs"]
    report["gates"] = [gate]
    (check,) = device.check_report(report, FILES, reference)
    assert (check.outcome, check.detail) == ("failed", "op 12 is not accelerated")


def test_what_was_left_out_is_no_verdict(report, reference):
    report["gates"].append(
        {"gate": "device", "outcome": "skipped", "subject": FILE, "backend": "GPU", "detail": "none"}
    )
    assert [c.outcome for c in device.check_report(report, FILES, reference)] == ["passed", "skipped"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(sha256="ef" * 32), "not this bundle's"),
        (lambda f: f.update(outputs=f["outputs"][:1]), "1 outputs"),
        (lambda f: f.update(outputs=["?", f["outputs"][1]]), "damaged"),
        (lambda f: f.update(outputs=[encode(np.zeros(3)), f["outputs"][1]]), "has 3 numbers"),
    ],
)
def test_a_report_of_something_else_is_refused(report, reference, change, said):
    change(report["gates"][0]["figures"])
    with pytest.raises(InputError, match=said):
        device.check_report(report, FILES, reference)


def read(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return device.read_device_report(path)


def test_reading(report, tmp_path):
    assert read(tmp_path / "report.json", report) == report
    with pytest.raises(InputError, match="can't be read"):
        device.read_device_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        [],
        {},
        lambda r: r.update(format=2),
        lambda r: r.update(gates=[]),
        lambda r: r.update(device={"name": None, "system": "x"}),
        lambda r: r["gates"][0].update(outcome="fine"),
        lambda r: r["gates"][0].update(detail=None),
        lambda r: r["gates"][0]["figures"].update(kind="npu"),
    ],
)
def test_other_files_are_refused(report, tmp_path, broken):
    if callable(broken):
        changed = deepcopy(report)
        broken(changed)
        broken = changed
    with pytest.raises(InputError, match=r"not JSON|not a device's report"):
        read(tmp_path / "report.json", broken)
