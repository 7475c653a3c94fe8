"""Reading `.tflite` files: what is in them, and that nothing in them can do worse than an InputError."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecore.errors import InputError
from pecore.validate.graph import Graph, constant_bytes, macs, max_rank, op_counts, read_graph
from pecore.validate.rules import check


def _write(builder, path: Path, behind: bool = False) -> Path:
    """x [1, 4, 8] -> FULLY_CONNECTED to 16, without bias -> SUM over the last axis."""
    x, weights, y = builder.tensor(1, 4, 8), builder.tensor(16, 8, data=0.5), builder.tensor(1, 4, 16)
    axes, total = builder.tensor(1, dtype="int32", data=[-1]), builder.tensor(1, 4)
    builder.op("FULLY_CONNECTED", [x, weights, -1], y, options="FullyConnectedOptions", keepNumDims=True)
    builder.op("SUM", [y, axes], total, options="ReducerOptions", keepDims=False)
    return builder.write(path, [x], [total], behind=behind)


@pytest.mark.parametrize("behind", [False, True], ids=["inside", "behind the flatbuffer"])
def test_what_a_graph_holds(behind, builder, tmp_path):
    path = _write(builder, tmp_path / "model.tflite", behind)
    graph = read_graph(path)
    linear, total = graph.ops
    assert (linear.name, linear.kind, linear.index) == ("FULLY_CONNECTED", "builtin", 0)
    assert linear.options["keep_num_dims"] is True
    assert total.options == {"keep_dims": False}
    assert linear.inputs[2] is None
    weights, axes = linear.inputs[1], total.inputs[1]
    assert (weights.shape, weights.dtype, weights.constant, weights.bytes) == ((16, 8), "float32", True, 512)
    assert (linear.outputs[0].constant, linear.outputs[0].bytes) == (False, 0)
    np.testing.assert_array_equal(weights.value(), np.full((16, 8), 0.5, np.float32))
    assert axes.value().tolist() == [-1]
    assert [tensor.shape for tensor in (*graph.inputs, *graph.outputs)] == [(1, 4, 8), (1, 4)]
    (signature,) = graph.signatures
    assert (signature.key, list(signature.inputs), list(signature.outputs)) == ("serving_default", ["in0"], ["out0"])
    assert signature.inputs["in0"] == graph.inputs[0]
    assert (graph.subgraphs, graph.size_bytes) == (1, path.stat().st_size)
    assert op_counts(graph) == {"FULLY_CONNECTED": 1, "SUM": 1}
    assert (max_rank(graph), macs(graph)) == (3, 4 * 16 * 8)
    assert constant_bytes(graph) == {"float32": 512, "int32": 4}


def test_macs_of_convolutions_and_matmuls(builder, tmp_path):
    image, kernel, y = builder.tensor(1, 8, 8, 3), builder.tensor(5, 2, 2, 3, data=1), builder.tensor(1, 4, 4, 5)
    depthwise, z = builder.tensor(1, 3, 3, 5, data=1), builder.tensor(1, 2, 2, 5)
    left, right, product = builder.tensor(1, 2, 6, 3), builder.tensor(1, 2, 6, 7), builder.tensor(1, 2, 3, 7)
    builder.op("CONV_2D", [image, kernel, -1], y, options="Conv2DOptions", strideH=2, strideW=2)
    builder.op("DEPTHWISE_CONV_2D", [y, depthwise, -1], z, options="DepthwiseConv2DOptions", strideH=2, strideW=2)
    builder.op("BATCH_MATMUL", [left, right], product, options="BatchMatMulOptions", adjX=True)
    graph = read_graph(builder.write(tmp_path / "macs.tflite", [image, left, right], [z, product]))
    assert macs(graph) == 4 * 4 * 5 * (2 * 2 * 3) + 2 * 2 * 5 * (3 * 3) + 2 * 3 * 7 * 6


def test_a_shared_buffer_counts_once(builder, tmp_path):
    x, one, two, y, z = (builder.tensor(4, data=data) for data in (None, 1, None, None, None))
    builder.tensors[two].buffer = builder.tensors[one].buffer
    builder.op("ADD", [x, one], y, options="AddOptions")
    builder.op("ADD", [y, two], z, options="AddOptions")
    assert constant_bytes(read_graph(builder.write(tmp_path / "shared.tflite", [x], [z]))) == {"float32": 16}


def test_weights_in_another_file_are_counted_and_not_read(builder, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    x, weights, y = builder.tensor(1, 8), builder.tensor(16, 8), builder.tensor(1, 16)
    elsewhere = schema.ExternalBufferT()
    elsewhere.id, elsewhere.length = 7, 512
    builder.external.append(elsewhere)
    builder.tensors[weights].externalBuffer = 7
    builder.op("FULLY_CONNECTED", [x, weights, -1], y, options="FullyConnectedOptions")
    graph = read_graph(builder.write(tmp_path / "external.tflite", [x], [y]))
    assert constant_bytes(graph) == {"float32": 512}
    with pytest.raises(InputError, match="no values that can be read"):
        graph.ops[0].inputs[1].value()


def test_weights_beyond_2_gib(builder, tmp_path):
    """A sparse file: the weights lie 5 GB in, and the kernel gives us the hole in between for nothing."""
    far = 5_000_000_000
    x, weights, y = builder.tensor(1, 8), builder.tensor(16, 8, data=0.5), builder.tensor(1, 16)
    builder.op("FULLY_CONNECTED", [x, weights, -1], y, options="FullyConnectedOptions")
    buffer = builder.buffers[1]
    data, buffer.data, buffer.offset, buffer.size = buffer.data.tobytes(), None, far, 512
    path = builder.write(tmp_path / "large.tflite", [x], [y])
    with path.open("r+b") as file:
        file.seek(far)
        file.write(data)
    graph = read_graph(path)
    assert graph.size_bytes == far + 512
    assert (graph.ops[0].inputs[1].value() == 0.5).all()
    os.truncate(path, far + 511)
    with pytest.raises(InputError, match="truncated"):
        read_graph(path)


def test_a_converted_module_reads_as_the_interpreter_sees_it(tmp_path):
    litert_torch = pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4), torch.nn.Softmax(-1))
    path = tmp_path / "module.tflite"
    litert_torch.convert(module.eval(), (torch.zeros(1, 5, 8),)).export(str(path))
    graph = read_graph(path)
    interpreter = Interpreter(str(path))
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    assert [op.name for op in graph.ops] == [op["op_name"] for op in interpreter._get_ops_details()]
    for op in graph.ops:
        for tensor in filter(None, (*op.inputs, *op.outputs)):
            seen = details[tensor.index]
            assert (tensor.name, list(tensor.shape), tensor.dtype) == (
                seen["name"],
                seen["shape"].tolist(),
                np.dtype(seen["dtype"]).name,
            )
            if tensor.constant:
                np.testing.assert_array_equal(tensor.value(), interpreter.get_tensor(tensor.index))
    assert macs(graph) == 5 * (8 * 16 + 16 * 4)
    assert check(graph) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\x1c\0\0\0", "not a .tflite"),
        (b"PK\3\4" * 9, "not a .tflite"),
        (b"\x1c\0\0\0TFL3", "damaged or truncated"),
    ],
    ids=["missing", "empty", "four bytes", "a zip", "identifier only"],
)
def test_what_is_no_tflite(content, message, tmp_path):
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_graph(path)
    assert str(path) in str(error.value)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        read_graph(tmp_path)


def _survives(path: Path, content: bytes) -> Graph | None:
    path.write_bytes(content)
    try:
        graph = read_graph(path)
        op_counts(graph), max_rank(graph), macs(graph), constant_bytes(graph), check(graph)
    except InputError:
        return None
    return graph


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True))
def test_no_prefix_of_a_file_raises_anything_else(cut, builder, tmp_path):
    whole = _write(type(builder)(), tmp_path / "whole.tflite").read_bytes()
    _survives(tmp_path / "cut.tflite", whole[: int(cut * len(whole))])


@FUZZ
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
def test_no_flipped_bytes_raise_anything_else(flips, builder, tmp_path):
    content = bytearray(_write(type(builder)(), tmp_path / "whole.tflite").read_bytes())
    for where, mask in flips:
        content[int(where * len(content))] ^= mask
    _survives(tmp_path / "flipped.tflite", bytes(content))
