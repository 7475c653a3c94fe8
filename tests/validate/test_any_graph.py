"""`.tflite` files as they come: newer than the runtime, failing when run, with several signatures, with open sizes."""

from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pecore.errors import InputError
from pecore.runtime import CannotRunError, open_model
from pecore.validate import gates
from pecore.validate.bundle import ValidationOptions, check_file
from pecore.validate.checks import Check
from pecore.validate.gpu import GpuRun, Verdict
from pecore.validate.graph import read_graph
from pecore.validate.localize import cpu_runner, localize, steps


def judged(path: Path, reference: Path | None = None) -> list[Check]:
    return check_file(path, reference, ValidationOptions(gpu="skip", reference=reference), lambda line: None)


def one_op(builder, path: Path, name: str = "TANH", options: str = "", **tensors) -> Path:
    x, y = builder.tensor(1, 4, 8, **tensors), builder.tensor(1, 4, 8, **tensors)
    builder.op(name, [x], y, options=options)
    return builder.write(path, [x], [y])


# Newer than this runtime


def changed(builder, tmp_path, change) -> Path:
    x, y = builder.tensor(1, 4, 8), builder.tensor(1, 4, 8)
    builder.op("ABS", [x], y, options="AbsOptions")
    change(builder)
    return builder.write(tmp_path / "new.tflite", [x], [y])


def new_code(builder) -> None:
    builder.codes[0].builtinCode, builder.codes[0].deprecatedBuiltinCode = 250, 127


def new_type(builder) -> None:
    builder.tensors[0].type = 77


def new_version(builder) -> None:
    builder.codes[0].version = 99


@pytest.mark.parametrize(
    ("change", "words"), [(new_code, "an operation of code 250"), (new_type, "a tensor of type 77")]
)
def test_what_the_schema_has_no_name_for_is_named_by_its_number(change, words, builder, tmp_path):
    path = changed(builder, tmp_path, change)
    for opener in (read_graph, open_model):
        with pytest.raises(InputError, match=rf"{words}, which LiteRT [\d.]+ has no name for") as error:
            opener(path)
        assert "newer runtime, or is damaged" in str(error.value)


def test_an_operation_s_version_that_is_too_new_is_not_damage(builder, tmp_path):
    path = changed(builder, tmp_path, new_version)
    assert read_graph(path).ops[0].version == 99
    with pytest.raises(CannotRunError, match=r"ABS in version 99, which is newer than this runtime, LiteRT [\d.]+"):
        open_model(path)
    graph, cpu, gpu = judged(path)
    assert (graph.outcome, cpu.outcome, gpu.outcome) == ("failed", "failed", "skipped")
    assert "newer than this runtime" in cpu.detail
    assert "version 99" in graph.detail


# Failing when it runs


def test_a_model_that_fails_at_invoke_keeps_its_earlier_gates(builder, tmp_path):
    x, index, y = builder.tensor(4, 8), builder.tensor(1, dtype="int32", data=9), builder.tensor(1, 8)
    builder.op("GATHER", [x, index], y, options="GatherOptions")
    path = builder.write(tmp_path / "gather.tflite", [x], [y])
    graph, cpu, gpu = judged(path)
    assert (graph.outcome, cpu.outcome, gpu.outcome) == ("passed", "failed", "skipped")
    assert "fails when it runs: gather index out of bounds. Node number 0 (GATHER) failed to invoke" in cpu.detail
    np.savez(tmp_path / "r.npz", in0=np.zeros((1, 4, 8), np.float32), out0=np.zeros((1, 1, 8), np.float32))
    assert [check.outcome for check in judged(path, tmp_path / "r.npz")] == ["passed", "failed", "skipped"]
    with pytest.raises(InputError, match="fails when it runs"):
        localize(path, {"in0": np.zeros((4, 8), np.float32)}, {"cpu again": cpu_runner}, log=lambda line: None)


def test_a_custom_op_that_the_runtime_has_not_is_a_failed_check(builder, tmp_path):
    x, y = builder.tensor(1, 4), builder.tensor(1, 4)
    builder.op("CUSTOM", [x], y, custom="our_op")
    graph, cpu, _ = judged(builder.write(tmp_path / "custom.tflite", [x], [y]))
    assert (graph.outcome, cpu.outcome) == ("failed", "failed")
    assert "Encountered unresolved custom op: our_op. Node number 0 (our_op) failed to prepare" in cpu.detail


def test_an_op_without_outputs_is_no_step(builder, tmp_path):
    """CALL_ONCE initialises variables, and returns nothing."""
    x, y = builder.tensor(1, 4), builder.tensor(1, 4)
    builder.op("LOGISTIC", [x], y)
    once, code = schema.OperatorT(), schema.OperatorCodeT()
    once.opcodeIndex, once.inputs, once.outputs = 1, [], []
    once.builtinOptionsType, once.builtinOptions = schema.BuiltinOptions.CallOnceOptions, schema.CallOnceOptionsT()
    once.builtinOptions.initSubgraphIndex = 1
    code.builtinCode, code.deprecatedBuiltinCode, code.version = schema.BuiltinOperator.CALL_ONCE, 127, 1
    builder.ops.insert(0, once)
    builder.codes.append(code)
    empty = type(builder)()
    path = builder.write(tmp_path / "once.tflite", [x], [y], second=("init", empty, [], []))
    assert [step.op.name for step in steps(read_graph(path))] == ["LOGISTIC"]
    found = localize(path, {"in0": np.zeros((1, 4), np.float32)}, {"again": cpu_runner}, log=lambda line: None)
    assert found.sound


# Several signatures


@pytest.fixture
def two(builder, tmp_path) -> Path:
    """`serving_default` is tanh, `decode` doubles."""
    x, y = builder.tensor(1, 4, 8), builder.tensor(1, 4, 8)
    builder.op("TANH", [x], y)
    other = type(builder)()
    u, v = other.tensor(1, 6), other.tensor(1, 6)
    other.op("MUL", [u, other.tensor(1, 6, data=2)], v, options="MulOptions")
    return builder.write(tmp_path / "two.tflite", [x], [y], second=("decode", other, [u], [v]))


def test_each_signature_runs_by_its_key(two):
    x = np.full((1, 6), 3, np.float32)
    assert open_model(two).inputs["in0"].shape == (1, 4, 8)
    np.testing.assert_array_equal(open_model(two, signature="decode").run({"in0": x})["out0"], 2 * x)
    with pytest.raises(InputError, match="no signature 'encode'; it has serving_default, decode"):
        open_model(two, signature="encode")


def test_every_signature_is_validated(two, tmp_path):
    checks = judged(two)
    assert checks[0].figures["ops"] == 2
    assert [(c.gate, c.subject.partition(":")[2]) for c in checks[1:]] == [
        *[(gate, "serving_default") for gate in ("cpu", "gpu")],
        *[(gate, "decode") for gate in ("cpu", "gpu")],
    ]
    x, u = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((1, 1, 4, 8), (2, 1, 6)))
    arrays = {"in0": x, "out0": np.tanh(x)}
    np.savez(tmp_path / "first.npz", **arrays)
    outcomes = {c.subject: (c.outcome, c.detail) for c in judged(two, tmp_path / "first.npz") if c.gate == "cpu"}
    assert outcomes["two.tflite:serving_default"][0] == "passed"
    assert outcomes["two.tflite:decode"] == (
        "skipped",
        "nothing to compare with: give --reference decode/NAME arrays",
    )
    for factor, outcome in ((2, "passed"), (-2, "failed")):
        np.savez(tmp_path / "both.npz", **arrays, **{"decode/in0": u, "decode/out0": factor * u})
        found = {c.subject: c.outcome for c in judged(two, tmp_path / "both.npz") if c.gate == "cpu"}
        assert found == {"two.tflite:serving_default": "passed", "two.tflite:decode": outcome}


def test_the_first_signature_need_not_be_the_first_subgraph_s(two, tmp_path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(two.read_bytes(), 0))
    model.signatureDefs.reverse()
    packed = flatbuffers.Builder(1024)
    packed.Finish(model.Pack(packed), b"TFL3")
    path = tmp_path / "reversed.tflite"
    path.write_bytes(packed.Output())
    graph, inputs = read_graph(path), {"in0": np.ones((1, 6), np.float32)}
    assert [op.name for op in graph.ops] == ["MUL"]
    np.testing.assert_array_equal(open_model(path).run(inputs)["out0"], 2 * inputs["in0"])
    found = localize(path, inputs, {"again": cpu_runner}, log=lambda line: None)
    assert (found.sound, [row.step.op.name for row in found.parts]) == (True, ["MUL"])


# Sizes left open


@pytest.fixture
def open_sized(builder, tmp_path) -> Path:
    return one_op(builder, tmp_path / "open.tflite", signature=(-1, 4, 8))


def test_a_size_left_open_takes_the_reference_s(open_sized, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    np.savez(tmp_path / "r.npz", in0=x, out0=np.tanh(x))
    _, cpu, gpu = judged(open_sized, tmp_path / "r.npz")
    assert (cpu.outcome, cpu.figures["samples"]) == ("passed", 2)
    assert "takes the sizes that the file was written with alone" in gpu.detail
    np.savez(tmp_path / "r.npz", in0=x, out0=-np.tanh(x))
    assert judged(open_sized, tmp_path / "r.npz")[1].outcome == "failed"


def test_without_a_reference_open_sizes_are_said(open_sized):
    assert "sizes left open: 'in0' [-1, 4, 8] was run at [1, 4, 8]" in judged(open_sized)[1].detail


def test_only_what_is_open_is_free(open_sized):
    model = open_model(open_sized)
    assert model.run({"in0": np.zeros((5, 4, 8), np.float32)})["out0"].shape == (5, 4, 8)
    with pytest.raises(InputError, match=r"expects \[1, 4, 8\]"):
        model.run({"in0": np.zeros((5, 4, 9), np.float32)})


def test_a_size_left_open_without_a_signature(open_sized, tmp_path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(open_sized.read_bytes(), 0))
    model.signatureDefs = None
    packed = flatbuffers.Builder(1024)
    packed.Finish(model.Pack(packed), b"TFL3")
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(packed.Output())
    opened = open_model(bare)
    for n in (5, 1, 2):
        assert opened.run({"t0": np.zeros((n, 4, 8), np.float32)})["t1"].shape == (n, 4, 8)


# Quantized inputs


def test_a_reference_in_real_units_is_quantized(builder, tmp_path):
    x, y = (builder.tensor(1, 4, 8, dtype="int8", scales=1) for _ in range(2))
    builder.op("ADD", [x, builder.tensor(1, 4, 8, dtype="int8", data=0, scales=1)], y, options="AddOptions")
    path = builder.write(tmp_path / "int8.tflite", [x], [y])
    real = np.random.default_rng(0).uniform(-1, 1, (1, 1, 4, 8)).astype(np.float32)
    np.savez(tmp_path / "r.npz", in0=real, out0=real)
    assert judged(path, tmp_path / "r.npz")[1].outcome == "passed"
    np.savez(tmp_path / "r.npz", in0=real, out0=real[..., ::-1])
    assert judged(path, tmp_path / "r.npz")[1].outcome == "failed"


def test_a_graph_of_integers_is_not_judged_on_noise(builder, tmp_path, monkeypatch):
    """The CPU clamps what leaves the range that activations were quantized for; the GPU computes in floats."""
    x, y = (builder.tensor(1, 4, 8, dtype="int8", scales=1) for _ in range(2))
    builder.op("ADD", [x, builder.tensor(1, 4, 8, dtype="int8", data=0, scales=1)], y, options="AddOptions")
    path = builder.write(tmp_path / "int8.tflite", [x], [y])
    wrong = {"out0": np.random.default_rng(9).integers(-128, 128, (1, 4, 8)).astype(np.int8)}
    monkeypatch.setattr(
        gates, "run_on_gpu", lambda *_: GpuRun(Verdict.RAN, "", "fp16", "2.3.0", ops=1, outputs=(wrong,))
    )
    options = ValidationOptions(gpu="require")
    found = [c for c in check_file(path, None, options, lambda line: None) if c.gate == "gpu"]
    assert [c.outcome for c in found] == ["skipped", "skipped"]
    assert found[0].detail.startswith("not judged: a graph of integers on made-up inputs; give --reference")
    real = np.random.default_rng(0).uniform(-1, 1, (1, 1, 4, 8)).astype(np.float32)
    np.savez(tmp_path / "r.npz", in0=real, out0=real)
    found = [c for c in check_file(path, tmp_path / "r.npz", options, lambda line: None) if c.gate == "gpu"]
    assert {c.outcome for c in found} == {"failed"}
