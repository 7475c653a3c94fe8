"""The real compiler and the real simulation: what compiles, what is refused, and T16 whole."""

import re

import numpy as np
import pytest

from pecore.cli import main
from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.quantize import quantize
from pecore.errors import InputError
from pecore.validate.checks import failed
from pecore.validate.npu import NpuOptions, compile_for_npu, prepare, run_on_npu
from pecore.validate.npu_gate import npu_gates
from pecore.validate.npu_verdict import Verdict
from pecore.variants import find
from tests.graph_builder import GraphBuilder

pytestmark = pytest.mark.npu


@pytest.fixture
def split(tmp_path):
    """LOGISTIC, WHERE, LOGISTIC: the compiler has no WHERE."""
    builder = GraphBuilder()
    tensors = [builder.tensor(1, 4) for _ in range(4)]
    for name, i in (("LOGISTIC", 0), ("WHERE", 1), ("LOGISTIC", 2)):
        builder.op(name, [tensors[i]], tensors[i + 1])
    return builder.write(tmp_path / "split.tflite", [tensors[0]], [tensors[3]])


def test_a_graph_with_a_hole_is_refused_with_the_op(split, tmp_path):
    build = compile_for_npu(split, "SM8850", tmp_path / "out.tflite")
    assert build.verdict is Verdict.REFUSED
    assert (build.ops_on_npu, build.ops, build.partitions) == (2, 3, 2)
    assert [refused.op for refused in build.refused] == ["WHERE"]


def test_two_signatures_are_two_pieces_and_the_first_is_run(tmp_path):
    first, other = GraphBuilder(), GraphBuilder()
    for builder, size in ((first, 4), (other, 8)):
        builder.op("LOGISTIC", [builder.tensor(1, size)], builder.tensor(1, size))
    path = first.write(tmp_path / "two.tflite", [0], [1], second=("other", other, [0], [1]))
    build = compile_for_npu(path, "SM8850", tmp_path / "out.tflite")
    assert (build.verdict, build.ops, build.partitions) == (Verdict.COMPILED, 2, 2)
    x = np.float32([[-1, 0, 1, 2]])
    run = run_on_npu(tmp_path / "out.tflite", [{"in0": x}])
    np.testing.assert_allclose(run.outputs[0]["out0"], 1 / (1 + np.exp(-x)), atol=2e-3)  # fp16


def test_bounds_are_kept(split, tmp_path):
    target = tmp_path / "out.tflite"
    assert compile_for_npu(split, "SM8850", target, timeout_s=0.01).verdict is Verdict.TIMED_OUT
    assert compile_for_npu(split, "SM8850", target, memory=100 * 2**20).verdict in (
        *(Verdict.OUT_OF_MEMORY, Verdict.UNAVAILABLE, Verdict.FAILED),
    )
    assert not target.exists()


def test_a_chip_that_does_not_exist():
    with pytest.raises(InputError, match="SM9999: no chip"):
        prepare(NpuOptions(("SM9999",), accepted=True))


def test_t16_at_full_depth_is_whole_on_the_npu_in_fp16_and_int8(converted, tmp_path):
    for precision, kept in (("fp16", False), ("int8", True)):
        build = compile_for_npu(converted.files[precision, kept], "SM8850", tmp_path / "out.tflite")
        assert build.verdict is Verdict.COMPILED, build.detail
        assert build.ops_on_npu == build.ops
        assert build.partitions == 1
        assert build.context_bytes == pytest.approx(converted.files["fp16", False].stat().st_size, rel=0.5)


def test_integer_activations_are_whole_from_sm8550_on(converted, tmp_path):
    """SM8450's NPU multiplies no int16 by int16."""
    file = tmp_path / "a16w8.tflite"
    quantize(converted.files["fp32", True], file, "a16w8", converted.inputs)
    some, options = slice(1), NpuOptions(("SM8850",), run=True)
    (check,) = npu_gates(file, "a16w8", converted.inputs[some], converted.reference[some], options, print)
    assert check.outcome == "passed", check.detail
    assert check.figures["partitions"] == 1
    assert compile_for_npu(file, "SM8550", tmp_path / "out.tflite").verdict is Verdict.COMPILED
    older = compile_for_npu(file, "SM8450", tmp_path / "out.tflite")
    assert older.verdict is Verdict.REFUSED
    assert {refused.op for refused in older.refused} == {"BATCH_MATMUL"}


def test_the_context_computes_what_pytorch_computes(converted):
    """In fp16: the thresholds of `Precision`, whose margins docs/npu.md measures."""
    options = NpuOptions(("SM8850",), run=True)
    some = slice(1)
    file = converted.files["fp16", False]
    (check,) = npu_gates(file, "fp16", converted.inputs[some], converted.reference[some], options, print)
    assert check.outcome == "passed", check.detail
    assert re.match(r"\d+ of \d+ ops on SM8850 \(compiler\), cosine 0\.9999\d+, .*\(simulated\)", check.detail)
    wrong = [{"embedding": -sample["embedding"]} for sample in converted.reference[some]]
    (check,) = npu_gates(file, "fp16", converted.inputs[some], wrong, options, print)
    assert check.outcome == "failed"


def test_a_context_that_is_damaged_is_a_failed_run(converted, tmp_path):
    target = tmp_path / "out.tflite"
    compile_for_npu(converted.files["fp16", False], "SM8850", target)
    content = bytearray(target.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    target.write_bytes(content)
    run = run_on_npu(target, converted.inputs[:1])
    assert run.verdict in (Verdict.FAILED, Verdict.CRASHED)
    assert "simulat" in run.detail


def test_the_whole_t16_through_convert(tmp_path):
    """The size that is published, from synthetic weights; the compiler alone, which takes seconds."""
    variant = find("T16")
    options = pipeline.VisionOptions(("fp16", "int8"), gpu="skip", npu=NpuOptions(("SM8850",), required=True))
    result = pipeline.convert(variant, load(variant, "synthetic"), tmp_path / "t16", options, lambda line: None)
    assert not failed(result.checks)
    found = {check.subject: check.detail for check in result.checks if check.gate == "npu"}
    assert found == {
        "pe_core_tiny_384_fp16.tflite": "546 of 546 ops on SM8850 (compiler)",
        "pe_core_tiny_384_int8.tflite": "517 of 517 ops on SM8850 (compiler)",
    }


def test_the_verb(split, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(split), "--no-gpu", "--npu", "sm8850"])
    assert ended.value.code == 1
    assert "2 of 3 ops on SM8850" in " ".join(capfd.readouterr().out.split())
