"""A copy of a `.tflite` that also gives out tensors from its inside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pecore.errors import InputError
from pecore.validate.graph import Graph, Tensor

ALIGNMENT = 16  # of constants in a file, as the runtime wants it


def expose(graph: Graph, tensors: Sequence[Tensor], target: Path) -> dict[int, str]:
    """Write a copy of a file in which `tensors` are outputs as well; their names in its signature, by tensor index.

    Each is exposed through a RESHAPE to its own shape: the delegate gets an ADD wrong that is an output and that a SUM
    or MEAN also reads (rule `add-read-twice`). Constants go after the flatbuffer, as in files over 2 GB, and are
    copied from the source without being taken into memory.

    Raises:
        InputError: the file's weights are in another file.
    """
    source = np.memmap(graph.path, np.uint8, mode="r")
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source, 0))
    if model.externalBuffers:
        raise InputError(f"{graph.path} keeps its weights in another file, so it can't be looked into; put them inside")
    main = model.subgraphs[graph.subgraph]
    main.outputs = [int(i) for i in main.outputs]
    model.signatureDefs = [s for s in model.signatureDefs or [] if s.subgraphIndex == graph.subgraph][:1] or [
        _signature(graph)
    ]
    model.operatorCodes.append(_reshape_code())
    names = {tensor.index: f"exposed_{tensor.index}" for tensor in tensors}
    for tensor in tensors:
        name = names[tensor.index]
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.array(tensor.shape, "<i4").view(np.uint8)
        shape = _tensor(f"{name}_shape", schema.TensorType.INT32, (len(tensor.shape),), len(model.buffers) - 1)
        main.tensors += [shape, _tensor(name, schema.TensorType.FLOAT32, tensor.shape, 0)]
        main.outputs.append(len(main.tensors) - 1)
        op = schema.OperatorT()
        op.opcodeIndex = len(model.operatorCodes) - 1
        op.inputs, op.outputs = [tensor.index, len(main.tensors) - 2], main.outputs[-1:]
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT()
        op.builtinOptions.newShape = list(tensor.shape)
        main.operators.append(op)
        model.signatureDefs[0].outputs.append(_entry(name, main.outputs[-1]))
    _write(model, _take_constants(model, source), target)
    return names


def _take_constants(model: Any, source: np.ndarray) -> dict[int, np.ndarray]:
    """Empty the model's buffers; what was in them, by their index."""
    constants = {}
    for i, buffer in enumerate(model.buffers):
        if buffer.offset > 1:
            constants[i] = source[buffer.offset : buffer.offset + buffer.size]
        elif buffer.data is not None and len(buffer.data):
            constants[i] = np.asarray(buffer.data, np.uint8)
        else:
            continue
        buffer.data = None
    return constants


def _write(model: Any, constants: Mapping[int, np.ndarray], target: Path) -> None:
    for i, data in constants.items():
        model.buffers[i].offset, model.buffers[i].size = 2, len(data)
    end = len(_packed(model))  # offsets are of fixed width, so the length stays
    for i, data in constants.items():
        model.buffers[i].offset = end = -(-end // ALIGNMENT) * ALIGNMENT
        end += len(data)
    with target.open("wb") as file:
        file.write(_packed(model))
        for i, data in constants.items():
            file.seek(model.buffers[i].offset)
            data.tofile(file)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str, dtype: int, shape: Sequence[int], buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, dtype, list(shape), buffer
    return tensor


def _reshape_code() -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    return code


def _signature(graph: Graph) -> Any:
    """A signature for a file without one, with the tensors' own names."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [_entry(t.name, t.index) for t in graph.inputs]
    signature.outputs = [_entry(t.name, t.index) for t in graph.outputs]
    return signature


def _entry(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
