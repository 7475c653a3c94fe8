"""Tiny `.tflite` files with whatever flaw a test wants, written through the schema's object API."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class GraphBuilder:
    """Collects tensors (by the number `tensor` returns) and operations, then writes them as one `.tflite`."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.ops: list[Any] = []
        self.codes: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.external: list[Any] = []

    def tensor(
        self,
        *shape: int,
        dtype: str = "float32",
        data: Any = None,
        signature: tuple[int, ...] | None = None,
        scales: int = 0,
    ) -> int:
        """A tensor; a constant where `data` (an array, or one number to fill it with) is given."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), getattr(schema.TensorType, dtype.upper()), 0
        tensor.name = f"t{len(self.tensors)}"
        tensor.shapeSignature = None if signature is None else list(signature)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.broadcast_to(np.asarray(data, dtype), shape).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [0.01] * scales, [0] * scales
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def op(
        self, name: str, inputs: list[int], /, *outputs: int, options: str = "", custom: str = "", **values: Any
    ) -> int:
        """An operation with builtin options of the named table; returns its first output."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version, code.customCode = min(code.builtinCode, 127), 1, custom or None
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.codes), inputs, list(outputs)
        if options:
            second = hasattr(schema.BuiltinOptions2, options)
            kind = getattr(schema.BuiltinOptions2 if second else schema.BuiltinOptions, options)
            table = getattr(schema, f"{options}T")()
            for key, value in values.items():
                assert hasattr(table, key), key
                setattr(table, key, value)
            if second:
                op.builtinOptions2Type, op.builtinOptions2 = kind, table
            else:
                op.builtinOptionsType, op.builtinOptions = kind, table
        self.codes.append(code)
        self.ops.append(op)
        return outputs[0]

    def write(
        self,
        path: Path,
        inputs: list[int],
        outputs: list[int],
        behind: bool = False,
        subgraphs: int = 1,
        second: tuple[str, "GraphBuilder", list[int], list[int]] | None = None,
    ) -> Path:
        """Write the file; `behind` puts the constants behind the flatbuffer, as files over 2 GB have them; `second` is
        another signature: its key, and what its graph is."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.ops, inputs, outputs
        model = schema.ModelT()
        model.version, model.operatorCodes, model.buffers, model.subgraphs = (
            3,
            self.codes,
            self.buffers,
            [graph] * subgraphs,
        )
        model.externalBuffers = self.external or None
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.inputs, signature.outputs = (
            "serving_default",
            self._named("in", inputs),
            self._named("out", outputs),
        )
        model.signatureDefs = [signature]
        if second:
            key, other, its_inputs, its_outputs = second
            more = schema.SubGraphT()
            more.tensors, more.operators, more.inputs, more.outputs = other.tensors, other.ops, its_inputs, its_outputs
            for tensor in other.tensors:
                tensor.buffer += len(self.buffers) if tensor.buffer else 0
            for op in other.ops:
                op.opcodeIndex += len(self.codes)
            self.codes += other.codes
            self.buffers += other.buffers
            model.subgraphs.append(more)
            signature = schema.SignatureDefT()
            signature.signatureKey, signature.subgraphIndex = key, len(model.subgraphs) - 1
            signature.inputs, signature.outputs = self._named("in", its_inputs), self._named("out", its_outputs)
            model.signatureDefs.append(signature)
        tail = b""
        if behind:
            blobs = {id(buffer): buffer.data.tobytes() for buffer in self.buffers if buffer.data is not None}
            for buffer in self.buffers:
                if id(buffer) in blobs:
                    buffer.data, buffer.offset, buffer.size = None, 2, len(blobs[id(buffer)])
            start = len(_pack(model))  # offsets are fixed-width: the second packing has the same length
            for buffer in self.buffers:
                if id(buffer) in blobs:
                    buffer.offset = start + len(tail)
                    tail += blobs[id(buffer)]
        path.write_bytes(_pack(model) + tail)
        return path

    @staticmethod
    def _named(prefix: str, indices: list[int]) -> list[Any]:
        entries = []
        for position, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{prefix}{position}", index
            entries.append(entry)
        return entries


def _pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
