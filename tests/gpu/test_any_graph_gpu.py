"""What the rules claim of small graphs, and how outputs of every kind fare, on the real delegate."""

from pathlib import Path

import numpy as np
import pytest

from pecore.validate.bundle import ValidationOptions, check_file
from pecore.validate.checks import Check
from pecore.validate.gpu import Verdict, run_on_gpu
from pecore.validate.graph import read_graphs
from pecore.validate.rules import BLOCKING, check_graphs, load_rules
from tests.graph_builder import GraphBuilder

pytestmark = pytest.mark.gpu


def gates(path: Path, reference: Path | None = None) -> list[Check]:
    options = ValidationOptions(gpu="require", reference=reference)
    return check_file(path, reference, options, lambda line: None)


def on_gpu(path: Path) -> list[str]:
    return [f"{c.outcome} {c.detail}" for c in gates(path) if c.gate == "gpu"]


def write_pad(path: Path, name: str, shape: tuple[int, ...], paddings: list[list[int]]) -> Path:
    b = GraphBuilder()
    x, amounts = b.tensor(*shape), b.tensor(len(shape), 2, dtype="int32", data=paddings)
    y = b.tensor(*(n + before + after for n, (before, after) in zip(shape, paddings)))
    value = [b.tensor(data=-2)] if name == "PADV2" else []
    options = {"PAD": "PadOptions", "PADV2": "PadV2Options", "MIRROR_PAD": "MirrorPadOptions"}[name]
    b.op(name, [x, amounts, *value], y, options=options)
    return b.write(path, [x], [y])


PADS = [
    (name, shape, paddings)
    for shape, paddings in (
        ((1, 4, 8), [[0, 0], [1, 0], [0, 2]]),
        ((2, 4, 8), [[0, 0], [1, 0], [0, 0]]),
        ((1, 4, 8), [[1, 0], [0, 0], [0, 0]]),
        ((2, 4, 4, 8), [[0, 0], [1, 0], [0, 1], [0, 0]]),
    )
    for name in ("PAD", "PADV2", "MIRROR_PAD")
    if name != "MIRROR_PAD" or not paddings[0][0]  # a single row can't be mirrored
]


@pytest.mark.parametrize(("name", "shape", "paddings"), PADS)
def test_pads_are_wrong_where_the_rule_says_so_and_only_there(name, shape, paddings, tmp_path):
    path = write_pad(tmp_path / "pad.tflite", name, shape, paddings)
    wrong = any(f.rule == "pad-first-axis" for f in check_graphs(read_graphs(path)))
    assert wrong == (shape == (2, 4, 8) or bool(paddings[0][0]))
    for outcome in on_gpu(path):
        assert outcome.startswith("failed" if wrong else "passed"), outcome


def test_an_operation_s_version_is_refused_where_the_table_says_so(tmp_path):
    """The largest version that ML Drift takes, and the next."""
    _, rules = load_rules()
    (table,) = (rule.params for rule in rules if rule.id.startswith("op-version") and rule.holds_for("2.3.0"))
    for name, options in (("LOGISTIC", ""), ("SUB", "SubOptions"), ("RELU", "")):
        for version in (table["delegate"][name], table["delegate"][name] + 1):
            b = GraphBuilder()
            x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
            b.op(name, [x, b.tensor(1, 4, 8, data=1)] if name == "SUB" else [x], y, options=options)
            b.codes[-1].version = version
            path = b.write(tmp_path / "version.tflite", [x], [y])
            refused = [f.rule for f in check_graphs(read_graphs(path)) if f.verdict in BLOCKING]
            run = run_on_gpu(path)
            assert (run.verdict is Verdict.REFUSED) == bool(refused) == (version > table["delegate"][name])
            if refused:
                assert "Max version supported" in run.refused[0].reason


def write_exact(path: Path, name: str, options: str, data: float) -> Path:
    b = GraphBuilder()
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op(name, [x, b.tensor(1, 4, 8, data=data)], y, options=options)
    return b.write(path, [x], [y])


@pytest.mark.parametrize(("name", "data"), [("ADD", 1), ("MUL", 0)], ids=["a sum", "zeros"])
def test_exact_arithmetic_passes(name, data, tmp_path):
    """Its outputs are the CPU's to the last bit, in fp32 at least."""
    found = on_gpu(write_exact(tmp_path / "exact.tflite", name, f"{name.title()}Options", data))
    assert len(found) == 2
    assert all(outcome.startswith("passed 1 of 1 ops on ML Drift") for outcome in found), found


def test_one_element_passes(tmp_path):
    b = GraphBuilder()
    x, h, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(1)
    b.op("TANH", [x], h)
    b.op("MEAN", [h, b.tensor(2, dtype="int32", data=[1, 2])], y, options="ReducerOptions")
    found = on_gpu(b.write(tmp_path / "score.tflite", [x], [y]))
    assert all(outcome.startswith("passed 2 of 2 ops on ML Drift, relative |diff|") for outcome in found), found


def test_integers_booleans_and_quantized_outputs_pass(tmp_path):
    b = GraphBuilder()
    x, y = b.tensor(1, 4, 8, dtype="int8", scales=1), b.tensor(1, 4, 8, dtype="int8", scales=1)
    b.op("ADD", [x, b.tensor(1, 4, 8, dtype="int8", data=5, scales=1)], y, options="AddOptions")
    found = on_gpu(b.write(tmp_path / "int8.tflite", [x], [y]))
    b = GraphBuilder()
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, dtype="int32")
    b.op("ARG_MAX", [x, b.tensor(dtype="int32", data=2)], y, options="ArgMaxOptions", outputType=2)
    found += on_gpu(b.write(tmp_path / "argmax.tflite", [x], [y]))
    b = GraphBuilder()
    x, z, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(1, 4, 8, dtype="bool")
    b.op("GREATER", [x, z], y, options="GreaterOptions")
    found += on_gpu(b.write(tmp_path / "bool.tflite", [x, z], [y]))
    assert len(found) == 6
    assert all(outcome.startswith("passed") for outcome in found), found


def test_every_signature_runs(tmp_path):
    b, other = GraphBuilder(), GraphBuilder()
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("TANH", [x], y)
    u, h, v = other.tensor(1, 6), other.tensor(1, 6), other.tensor(1, 6)
    other.op("TANH", [u], h)
    other.op("MUL", [h, other.tensor(1, 6, data=2)], v, options="MulOptions")
    path = b.write(tmp_path / "two.tflite", [x], [y], second=("decode", other, [u], [v]))
    found = {(c.subject, c.backend.split()[2]): c for c in gates(path) if c.gate == "gpu"}
    assert {(subject.partition(":")[2], compute) for subject, compute in found} == {
        (key, compute) for key in ("serving_default", "decode") for compute in ("fp16", "fp32")
    }
    assert all(check.outcome == "passed" for check in found.values())
    assert [c.figures["ops"] for c in found.values()] == [1, 1, 2, 2]


def test_sizes_that_only_the_reference_has_are_left_out(tmp_path):
    b = GraphBuilder()
    x, y = (b.tensor(1, 4, 8, signature=(-1, 4, 8)) for _ in range(2))
    b.op("TANH", [x], y)
    path = b.write(tmp_path / "open.tflite", [x], [y])
    assert all(outcome.startswith("passed") for outcome in on_gpu(path))
    sample = np.zeros((1, 3, 4, 8), np.float32)
    np.savez(tmp_path / "r.npz", in0=sample, out0=sample)
    (gpu,) = (c for c in gates(path, tmp_path / "r.npz") if c.gate == "gpu")
    assert gpu.outcome == "skipped"


def test_the_delegate_s_own_words_are_kept_where_it_lists_no_ops(tmp_path):
    b = GraphBuilder()
    x, y, full = b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(8, 8)
    b.op("DEQUANTIZE", [b.tensor(8, 8, dtype="int8", data=3, scales=8)], full, options="DequantizeOptions")
    b.op("FULLY_CONNECTED", [x, full, -1], y, options="FullyConnectedOptions", keepNumDims=True)
    run = run_on_gpu(b.write(tmp_path / "weights.tflite", [x], [y]))
    assert run.verdict is Verdict.REFUSED
    assert "the delegate's own words: Failed to create" in run.detail
