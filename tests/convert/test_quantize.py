"""fp16 and int8 weights: what is quantized, what is left alone, and what that does to the embedding."""

import numpy as np
import pytest

from pecore.convert.quantize import quantize, recipe
from pecore.errors import InputError
from pecore.precision import PRECISIONS
from pecore.validate.gates import cpu_gate
from pecore.validate.graph import Graph, constant_bytes, read_graph


def _weights(graph: Graph) -> list:
    """The weight matrix of every Linear, seen through its DEQUANTIZE."""
    source = {op.outputs[0].index: op.inputs[0] for op in graph.ops if op.name == "DEQUANTIZE"}
    linears = [op.inputs[1] for op in graph.ops if op.name == "FULLY_CONNECTED"]
    return [source.get(tensor.index, tensor) for tensor in linears if tensor]


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("int8", "int8")])
def test_every_matrix_but_rope_s_swap_is_quantized(converted, precision, dtype) -> None:
    weights = _weights(read_graph(converted.files[precision, False]))
    head_dim, depth = converted.variant.head_dim, converted.variant.depth
    swaps = [tensor for tensor in weights if tensor.shape == (head_dim, head_dim)]
    assert {tensor.dtype for tensor in swaps} == {"float32"}
    assert len(swaps) == depth
    np.testing.assert_array_equal(swaps[0].value(), np.roll(np.eye(head_dim, dtype=np.float32), head_dim // 2, 0))
    assert {tensor.dtype for tensor in weights if tensor not in swaps} == {dtype}
    assert len(weights) == 5 * depth + 6  # pool: scores, value, proj, fc1, fc2; head


def test_int8_leaves_the_stem_in_float(converted) -> None:
    """A CONV_2D of float activations and int8 weights is what Qualcomm's compiler refuses."""
    (stem,) = (op for op in read_graph(converted.files["int8", True]).ops if op.name == "CONV_2D")
    assert [tensor.dtype for tensor in stem.inputs if tensor] == ["float32"] * 3


def test_sizes(converted) -> None:
    full, half, quarter = (converted.files[p, False].stat().st_size for p in ("fp32", "fp16", "int8"))
    assert half < 0.52 * full
    assert quarter < 0.30 * full
    parameters = constant_bytes(read_graph(converted.files["fp32", False]))["float32"] / 4
    assert parameters == pytest.approx(converted.variant.parameters, rel=0.05)  # tables and folds more or less


@pytest.mark.parametrize(
    ("precision", "kept"), [("fp32", False), ("fp32", True), ("fp16", False), ("fp16", True), ("int8", True)]
)
def test_photographs_keep_their_embeddings(converted, precision, kept) -> None:
    """fp32: rounding of sums in another order. fp16, int8: the weights' rounding, through 12 blocks."""
    path = converted.files[precision, kept]
    check, _ = cpu_gate(path, precision, converted.inputs, converted.reference)
    assert check.outcome == "passed"
    if precision == "fp32":
        assert check.figures["max_abs_diff"] <= 2e-6
    assert check.figures["cosine"] >= {"fp32": 1 - 1e-9, "fp16": 0.99999, "int8": 0.999}[precision]


def test_int8_needs_the_norms_weights(converted) -> None:
    """Why the int8 file is of another form: folded, the massive channels take a token's 256 steps for themselves."""
    check, _ = cpu_gate(converted.files["int8", False], "int8", converted.inputs, converted.reference)
    assert check.outcome == "failed"
    assert check.figures["cosine"] < 0.99


@pytest.mark.parametrize("precision", ["fp32", "int4", "FP16", ""])
def test_other_precisions_are_refused(precision, converted, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"'{precision}' is no precision that a float32 file"):
        recipe(precision)
    with pytest.raises(ValueError, match="is no precision"):
        quantize(converted.files["fp32", False], tmp_path / "out.tflite", precision)
    assert not list(tmp_path.iterdir())
    assert not issubclass(ValueError, InputError)  # users meet `VisionOptions`, which names PRECISIONS
    assert precision == "fp32" or precision not in PRECISIONS
