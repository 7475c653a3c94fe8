"""Each gate passes what is good and fails what has its flaw."""

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pecore.convert.export import export_tflite
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.files import to_json
from pecore.precision import COMPUTES, PRECISIONS
from pecore.rewrites import tower as rewrites
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate import exactness, gates, headroom
from pecore.validate.checks import Check, beyond, failed
from pecore.validate.gpu import Adapter, GpuRun, RefusedOp, Verdict
from pecore.validate.report import as_json
from pecore.validate.rules import runtimes

NEWEST = runtimes()[-1]


def test_thresholds_for_every_precision() -> None:
    """Weights of any precision on any backend, and for each a figure that sees direction and one that sees scale."""
    for kind, row in product(["cpu", *(f"gpu {compute}" for compute in COMPUTES)], PRECISIONS.values()):
        for unit in (True, False):
            limits = row.thresholds(kind, unit)
            assert {"cosine", "correlation"} & set(limits)
            assert "norm_error" in limits


def test_beyond_by_hand() -> None:
    limits = {"cosine": 0.9, "norm_error": 0.1}
    assert beyond({"cosine": 0.9, "norm_error": 0.1, "unjudged": 7}, limits) == []
    assert beyond({"cosine": 0.8, "norm_error": 0.2}, limits) == [
        "cosine 0.8 (must be >= 0.9)",
        "norm_error 0.2 (must be <= 0.1)",
    ]
    assert len(beyond({"cosine": math.nan, "norm_error": math.nan}, limits)) == 2


# 1, exact


def test_exact_gate(small, converted, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = small("T16")
    model = build_tower(variant, synthetic_state_dict(variant))
    good = exactness.exact_gate(exactness.max_difference(model, Scales(), converted.image))
    assert (good.gate, good.outcome, good.thresholds) == ("exact", "passed", {"max_abs_diff": 1e-10})

    def spoilt(*args, **kwargs):
        tower = rewrites.rewrite(*args, **kwargs)
        tower.blocks[1].mlp.fc1.weight[0, 0] += 1e-3
        return tower

    monkeypatch.setattr(exactness, "rewrite", spoilt)
    bad = exactness.exact_gate(exactness.max_difference(model, Scales(), converted.image))
    assert bad.outcome == "failed"
    assert "must be <= 1e-10" in bad.detail
    assert exactness.exact_gate(math.nan).outcome == "failed"


# 2, graph


def test_graph_gate(converted, tmp_path) -> None:
    good = gates.graph_gate(converted.files["fp16", False], NEWEST)
    assert (good.outcome, good.figures["ops"], good.figures["max_rank"]) == ("passed", 546, 4)
    assert good.figures["findings"] == []

    tokens = torch.zeros(1, 17, converted.variant.width)
    path = tmp_path / "timm.tflite"
    export_tflite(converted.model.blocks[0].attn, {"x": tokens}, path)  # timm's own, q, k and v split at rank 5
    bad = gates.graph_gate(path, NEWEST)
    assert bad.outcome == "failed"
    assert bad.figures["max_rank"] == 5
    assert {f["op_name"] for f in bad.figures["findings"]} >= {"RESHAPE", "TRANSPOSE"}
    assert "findings; first: " in bad.detail


# 3, cpu


def test_cpu_gate_passes_a_file_and_hands_its_outputs_on(converted) -> None:
    check, outputs = gates.cpu_gate(converted.files["fp32", False], "fp32", converted.inputs, converted.reference)
    assert (check.gate, check.outcome, check.subject) == ("cpu", "passed", "fp32_False.tflite")
    assert check.figures["samples"] == len(outputs) == 4
    assert check.backend.startswith("LiteRT CPU 2.")


@pytest.mark.parametrize("precision", [name for name, row in PRECISIONS.items() if not row.integer])
def test_cpu_gate_fails_on_another_image_s_embedding(converted, precision) -> None:
    path = converted.files[precision, precision == "int8"]
    swapped = [converted.reference[i] for i in (1, 0, 2, 3)]
    check, _ = gates.cpu_gate(path, precision, converted.inputs, swapped)
    assert check.outcome == "failed"
    assert "cosine" in check.detail
    scaled = [{"embedding": sample["embedding"] * 1.01} for sample in converted.reference]
    check, _ = gates.cpu_gate(path, precision, converted.inputs, scaled)
    assert check.outcome == "failed"
    assert "norm_error" in check.detail
    assert "cosine" not in check.detail


def test_absolute_difference_is_judged_on_unit_vectors_alone(converted) -> None:
    path = converted.files["fp32", False]
    _, outputs = gates.cpu_gate(path, "fp32", converted.inputs, converted.reference)
    spoilt = [{"embedding": sample["embedding"].copy()} for sample in outputs]
    spoilt[2]["embedding"][0, 5] += 5e-6
    check, _ = gates.cpu_gate(path, "fp32", converted.inputs, spoilt)
    assert check.detail.startswith("max_abs_diff")  # 5e-6 of one element turns the vector by nothing
    spoilt[2]["embedding"] *= 100
    check, _ = gates.cpu_gate(path, "fp32", converted.inputs, spoilt)
    assert "max_abs_diff" not in check.thresholds


def test_features_are_judged_by_their_own_limits(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two outputs, the second no unit vector: its figures stand beside the first's, under its name."""
    rng = np.random.default_rng(5)
    unit, features = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 32), (1, 4, 4, 4)))
    unit /= np.linalg.norm(unit)
    features *= 300
    reference = [{"embedding": unit, "features": features}]
    spoilt = [{"embedding": unit, "features": features * np.float32(1 + 1e-4)}]

    class Model:
        def run(self, arrays):
            return made[0]

    monkeypatch.setattr(gates, "open_model", lambda *_, **__: Model())
    inputs = [{"image": np.zeros((1, 3, 8, 8), np.float32)}]
    made = reference
    good, _ = gates.cpu_gate(tmp_path / "f", "fp32", inputs, reference)
    assert good.outcome == "passed"
    assert "max_abs_diff" in good.thresholds
    assert good.thresholds["features.relative_diff"] == 5e-5
    made = spoilt
    bad, _ = gates.cpu_gate(tmp_path / "f", "fp32", inputs, reference)
    assert bad.detail.startswith("features.norm_error 0.0001")
    assert "features.relative_diff" in bad.detail
    assert (bad.figures["norm_error"], bad.figures["max_abs_diff"]) == (0, 0)
    rounded, _ = gates.cpu_gate(tmp_path / "f", "fp16", inputs, reference)
    assert rounded.outcome == "passed"  # features have no norm that was made 1


def test_images_of_a_batch_are_judged_one_by_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = np.eye(3, 8, dtype=np.float32)
    turned = embeddings.copy()
    turned[2] = turned[1]  # one of three is another image's

    class Model:
        def run(self, arrays):
            return {"embedding": turned}

    monkeypatch.setattr(gates, "open_model", lambda *_, **__: Model())
    inputs = [{"image": np.zeros((3, 3, 8, 8), np.float32)}]
    check, _ = gates.cpu_gate(tmp_path / "f", "fp32", inputs, [{"embedding": embeddings}])
    assert (check.figures["cosine"], check.figures["norm_error"]) == (0, 0)
    assert check.thresholds["max_abs_diff"] == 2e-6


# 4, gpu: its verdicts; the delegate itself is in tests/gpu

ADAPTER = Adapter("llvmpipe", "CPU / Software", True, "Mesa 25")


def _gpu(run: GpuRun, converted, monkeypatch: pytest.MonkeyPatch, **options) -> Check:
    monkeypatch.setattr(gates, "run_on_gpu", lambda *_: run)
    outputs = converted.reference
    return gates.gpu_gate(converted.files["fp16", False], "fp16", "fp16", converted.inputs, outputs, **options)


def test_gpu_gate_judges_what_the_delegate_computed(converted, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = GpuRun(Verdict.RAN, "", "fp16", "2.3.0", ADAPTER, 494, 494, outputs=tuple(converted.reference))
    good = _gpu(ran, converted, monkeypatch)
    assert (good.outcome, good.backend) == ("passed", "ML Drift fp16 on llvmpipe")
    assert good.detail.startswith("494 of 494 ops on ML Drift")
    for factor, missed in ((1.01, "norm_error"), (math.nan, "correlation"), (-1.0, "correlation")):
        wrong = tuple({"embedding": sample["embedding"] * np.float32(factor)} for sample in converted.reference)
        bad = _gpu(replace(ran, outputs=wrong), converted, monkeypatch)
        assert bad.outcome == "failed"
        assert bad.detail.startswith(missed)


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.CRASHED, Verdict.NOT_ON_GPU], ids=str)
def test_gpu_gate_fails_on_anything_but_a_run(verdict, converted, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (RefusedOp("RESHAPE", "rank 5"),)
    run = GpuRun(verdict, "in a sentence", "fp16", "2.3.0", ADAPTER, 494, 50, refused, tuple(converted.reference))
    check = _gpu(run, converted, monkeypatch)
    assert (check.outcome, check.detail) == ("failed", "in a sentence")
    assert check.figures["refused"] == [{"op": "RESHAPE", "reason": "rank 5"}]


@pytest.mark.parametrize("verdict", [Verdict.TIMED_OUT, Verdict.GAVE_UP], ids=str)
def test_a_run_that_says_nothing_of_the_model_is_a_skip_unless_one_is_required(
    verdict, converted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine too busy for LiteRT's own limit of two minutes is a failed run, not a failed model."""
    run = GpuRun(verdict, "LiteRT gave up", "fp16", "2.3.0", ADAPTER, 494)
    check = _gpu(run, converted, monkeypatch)
    assert (check.outcome, check.detail) == ("skipped", "LiteRT gave up")
    assert check.figures["verdict"] == verdict
    assert _gpu(run, converted, monkeypatch, required=True).outcome == "failed"


def test_no_adapter_is_a_skip_unless_one_is_required(converted, monkeypatch: pytest.MonkeyPatch) -> None:
    run = GpuRun(Verdict.NO_ADAPTER, "install one", "fp16", "2.3.0")
    assert _gpu(run, converted, monkeypatch).outcome == "skipped"
    assert _gpu(run, converted, monkeypatch, required=True).outcome == "failed"
    arguments = converted.files["fp16", False], "fp16", converted.inputs, converted.reference
    stages: list[str] = []
    # Once: in the other precision there would be no adapter either.
    assert [c.outcome for c in gates.gpu_gates(*arguments, "auto", stages.append)] == ["skipped"]
    assert [c.outcome for c in gates.gpu_gates(*arguments, "require", stages.append)] == ["failed"]
    assert len(stages) == 2
    (left_out,) = gates.gpu_gates(*arguments, "skip", stages.append)
    assert (left_out.outcome, left_out.detail, len(stages)) == ("skipped", "left out on request", 2)


# 5, headroom


def test_headroom_gate(small, converted) -> None:
    good = headroom.headroom_gate(converted.reductions, converted.scales)
    assert (good.outcome, good.thresholds) == ("passed", {"headroom": 4.0})
    assert good.figures["headroom"] == min(r.headroom for r in converted.reductions)
    assert good.figures["scales"]["stream"] == converted.scales.stream == 1 / 8
    assert good.detail.endswith("residual stream x 1/8")

    variant = small("T16", 3)
    model = build_tower(variant, synthetic_state_dict(variant, amplitude=20000.0))
    ones = Scales(stream=1.0, pool=1.0)
    bad = headroom.headroom_gate(headroom.measure(rewrite(model, ones), ones, [converted.image]), ones)
    assert bad.outcome == "failed"
    assert bad.figures["headroom"] < 1
    assert bad.figures["reduction"] in ("blocks.2.norm1", "blocks.2.norm2", "norm")


# The report


def test_figures_survive_json() -> None:
    check = Check("cpu", "f", "b", "failed", "d", {"a": math.nan, "b": [math.inf, -1.0], "c": {"d": (1, 2.5)}})
    assert json.loads(to_json(check.as_dict()))["figures"] == {
        "a": None,
        "b": ["inf", -1.0],
        "c": {"d": [1, 2.5]},
    }


def test_one_failure_fails_the_report() -> None:
    checks = [Check("cpu", "f", "b", outcome, "d") for outcome in ("passed", "skipped", "failed")]
    assert failed(checks) == checks[2:]
    assert as_json(checks)["verdict"] == "failed"
    assert as_json(checks[:2], name="n")["verdict"] == "passed"
    assert as_json(checks[:2], name="n")["name"] == "n"
