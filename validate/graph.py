"""Read a `.tflite` file without running it: operations, shapes, dtypes, constants, signatures.

The flatbuffer is read in place through a memory map with the schema that ai-edge-litert carries, so a file of several
gigabytes costs its metadata only. Weights may lie inside the flatbuffer, after it in the same file (files over 2 GB),
or in another file (external buffers); their bytes are counted and, on request, read one tensor at a time.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pecore.errors import InputError
from pecore.precision import PRECISIONS
from pecore.tflite_file import check_tflite_head, not_known

_DTYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
_BUILTINS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

Kind = Literal["builtin", "custom", "composite"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    `shape` is the shape the file was written with, `shape_signature` the same with -1 where a size is left open.
    `dtype` is the schema's name in lower case (float32, float16, int8, int4, int64, ...). `bytes` is what a constant
    takes up in the file, 0 for an activation; tensors with the same `buffer` share those bytes. `offset` is where they
    begin in `path`, None for an activation and for weights kept in another file. `scale` and `zero_point` are those of
    a tensor that is quantized as a whole: its real values are scale * (stored - zero_point); None where it is not.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    constant: bool
    bytes: int
    buffer: int
    path: Path
    offset: int | None
    scale: float | None = None
    zero_point: int = 0

    def value(self) -> np.ndarray:
        """The constant's values in `shape`, read now from the file. InputError where there are none numpy can read."""
        dtype = np.dtype(self.dtype) if self.dtype in np.sctypeDict else None
        if self.offset is None or dtype is None or self.bytes != math.prod(self.shape) * dtype.itemsize:
            what = f"tensor '{self.name}' of {self.path} ({self.dtype} {list(self.shape)})"
            raise InputError(f"{what} holds no values that can be read; convert the model again")
        return np.fromfile(self.path, dtype, count=self.bytes // dtype.itemsize, offset=self.offset).reshape(self.shape)


@dataclass(frozen=True)
class Op:
    """One operation.

    `name` is the builtin's name ("BATCH_MATMUL"), or a custom operation's or composite's own; `inputs` holds None for
    an optional input that is absent; `options` are the builtin options by their names in snake_case; `version` is that
    of the operation, which says what dtypes and options it has.
    """

    index: int
    name: str
    kind: Kind
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any]
    version: int = 1


@dataclass(frozen=True)
class Signature:
    """A named way to call the model: its tensors by argument name."""

    key: str
    subgraph: int
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Graph:
    """What one signature of a model computes; of a file without signatures, its first subgraph.

    `key` names the signature, `subgraph` is its number. `signatures` are all that the file has; `subgraphs` counts all
    of them, bodies of composites and loops included.
    """

    path: Path
    size_bytes: int
    ops: tuple[Op, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    signatures: tuple[Signature, ...]
    subgraphs: int
    key: str | None = None
    subgraph: int = 0


def read_graph(path: str | Path) -> Graph:
    """The graph of the first signature of `path`, a `.tflite` file. Raises InputError as `read_graphs`."""
    return read_graphs(path)[0]


def read_graphs(path: str | Path) -> tuple[Graph, ...]:
    """Read `path`, a `.tflite` file: one graph for each signature (those that share a subgraph once), or its first
    subgraph where it has none.

    Raises:
        InputError: the file is missing, no `.tflite`, damaged, or uses what this runtime's schema has no name for.
    """
    path = Path(path)
    data = _map(path)
    try:
        return _read(path, data)
    except InputError:
        raise
    # The flatbuffers runtime follows whatever offsets a damaged file holds, and fails wherever they lead.
    except (
        struct.error,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise InputError(
            f"{path} is a damaged or truncated .tflite file ({error}); copy or convert it again"
        ) from error


def _map(path: Path) -> np.memmap:
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a .tflite file")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a .tflite file")
    check_tflite_head(path)
    try:
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); check its permissions") from error


def _read(path: Path, data: np.memmap) -> tuple[Graph, ...]:
    model = schema.Model.GetRootAs(data, 0)
    external = {
        model.ExternalBuffers(i).Id(): model.ExternalBuffers(i).Length() for i in range(model.ExternalBuffersLength())
    }
    subgraphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    if not subgraphs:
        raise InputError(f"{path} holds no graph; convert the model again")
    tensors = [
        tuple(_tensor(path, data.size, model, graph, i, external) for i in range(graph.TensorsLength()))
        for graph in subgraphs
    ]
    codes = [_op_code(path, model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    signatures = tuple(_signature(model.SignatureDefs(i), tensors) for i in range(model.SignatureDefsLength()))
    keys: dict[int, str | None] = {}
    for signature in signatures:
        keys.setdefault(signature.subgraph, signature.key)
    graphs = []
    for number, key in (keys or {0: None}).items():
        graph, own = subgraphs[number], tensors[number]
        graphs.append(
            Graph(
                path=path,
                size_bytes=data.size,
                ops=tuple(_op(i, graph.Operators(i), codes, own) for i in range(graph.OperatorsLength())),
                inputs=_pick(own, graph.InputsAsNumpy()),
                outputs=_pick(own, graph.OutputsAsNumpy()),
                signatures=signatures,
                subgraphs=len(subgraphs),
                key=key,
                subgraph=number,
            )
        )
    return tuple(graphs)


def _tensor(path: Path, size: int, model: Any, subgraph: Any, index: int, external: Mapping[int, int]) -> Tensor:
    tensor = subgraph.Tensors(index)
    shape = _ints(tensor.ShapeAsNumpy())
    offset, length = _location(model, tensor.Buffer(), size)
    if tensor.ExternalBuffer():
        offset, length = None, external[tensor.ExternalBuffer()]
    if tensor.Type() not in _DTYPES:
        raise InputError(f"{path} {not_known(f'a tensor of type {tensor.Type()}')}")
    scale, zero_point = _quantization(tensor.Quantization())
    return Tensor(
        index=index,
        name=_text(tensor.Name()),
        shape=shape,
        shape_signature=_ints(tensor.ShapeSignatureAsNumpy()) or shape,
        dtype=_DTYPES[tensor.Type()],
        constant=length > 0 and not tensor.IsVariable(),
        bytes=length,
        buffer=tensor.Buffer(),
        path=path,
        offset=offset,
        scale=scale,
        zero_point=zero_point,
    )


def _quantization(parameters: Any) -> tuple[float | None, int]:
    """Scale and zero point of a tensor that has one of them; None and 0 of one with none, or one for each channel."""
    if parameters is None or parameters.ScaleLength() != 1 or not parameters.Scale(0):
        return None, 0
    return float(parameters.Scale(0)), int(parameters.ZeroPoint(0)) if parameters.ZeroPointLength() else 0


def _location(model: Any, index: int, size: int) -> tuple[int | None, int]:
    """Where a buffer's bytes begin in the file, and how many. Only an offset above 1 points past the flatbuffer."""
    if not 0 <= index < model.BuffersLength():
        raise IndexError(f"buffer {index} of {model.BuffersLength()}")
    buffer = model.Buffers(index)
    if buffer.Offset() > 1:
        offset, length = buffer.Offset(), buffer.Size()
    elif buffer.DataLength():
        offset, length = int(buffer._tab.Vector(buffer._tab.Offset(4))), buffer.DataLength()
    else:
        return None, 0
    if offset + length > size:
        raise ValueError(f"buffer {index} ends at byte {offset + length} of {size}")
    return offset, length


def _op_code(path: Path, code: Any) -> tuple[Kind, str, int]:
    """Kind, name and version of an operation."""
    # Codes above 127 do not fit the old one-byte field, which then holds 127; the larger of the two is the operation.
    number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
    if number not in _BUILTINS:
        raise InputError(f"{path} {not_known(f'an operation of code {number}')}")
    builtin = _BUILTINS[number]
    if builtin == "CUSTOM":
        return "custom", _text(code.CustomCode()), code.Version()
    return ("composite" if builtin == "STABLEHLO_COMPOSITE" else "builtin"), builtin, code.Version()


def _op(
    index: int,
    operator: Any,
    codes: list[tuple[Kind, str, int]],
    tensors: tuple[Tensor, ...],
) -> Op:
    kind, name, version = codes[operator.OpcodeIndex()]
    options = _options(operator)
    return Op(
        index=index,
        name=options.get("name") or name if kind == "composite" else name,
        kind=kind,
        inputs=tuple(None if i == -1 else _at(tensors, i) for i in _ints(operator.InputsAsNumpy())),
        outputs=_pick(tensors, operator.OutputsAsNumpy()),
        options=options,
        version=version,
    )


def _options(operator: Any) -> dict[str, Any]:
    unions = (
        (schema.BuiltinOptionsCreator, operator.BuiltinOptionsType(), operator.BuiltinOptions()),
        (schema.BuiltinOptions2Creator, operator.BuiltinOptions2Type(), operator.BuiltinOptions2()),
    )
    found = next((options for create, kind, table in unions if (options := create(kind, table)) is not None), None)
    return (
        {}
        if found is None
        else {re.sub("([A-Z])", r"_\1", key).lower(): _plain(value) for key, value in vars(found).items()}
    )


def _signature(signature: Any, tensors: list[tuple[Tensor, ...]]) -> Signature:
    own = _at(tensors, signature.SubgraphIndex())
    maps = [
        [signature.Inputs(i) for i in range(signature.InputsLength())],
        [signature.Outputs(i) for i in range(signature.OutputsLength())],
    ]
    inputs, outputs = ({_text(entry.Name()): _at(own, entry.TensorIndex()) for entry in entries} for entries in maps)
    return Signature(_text(signature.SignatureKey()), signature.SubgraphIndex(), inputs, outputs)


def _at(items: Any, index: int) -> Any:
    """`items[index]`, without Python's negative indices: in a file they are damage."""
    if not 0 <= index < len(items):
        raise IndexError(f"index {index} of {len(items)}")
    return items[index]


def _pick(tensors: tuple[Tensor, ...], indices: Any) -> tuple[Tensor, ...]:
    return tuple(_at(tensors, i) for i in _ints(indices))


def _ints(vector: Any) -> tuple[int, ...]:
    return (
        () if isinstance(vector, int) else tuple(vector.tolist())
    )  # the schema's accessors say 0 for an absent vector


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    return (
        _text(value) if isinstance(value, bytes) else tuple(value.tolist()) if isinstance(value, np.ndarray) else value
    )


def op_counts(*graphs: Graph) -> Counter[str]:
    """How often each operation occurs, by name."""
    return Counter(op.name for graph in graphs for op in graph.ops)


def max_rank(*graphs: Graph) -> int:
    """The largest number of axes of any tensor that an operation reads or writes."""
    return max((len(tensor.shape) for tensor in _touched(*graphs)), default=0)


def constant_bytes(*graphs: Graph) -> dict[str, int]:
    """Bytes of the constants that the operations read, by dtype; a buffer that several tensors share counts once."""
    buffers = {
        t.buffer if t.offset is not None else t.name: t for t in _touched(*graphs) if t.constant
    }  # external ones have no buffer
    total: Counter[str] = Counter()
    for tensor in buffers.values():
        total[tensor.dtype] += tensor.bytes
    return dict(total)


def weights_precision(*graphs: Graph) -> str:
    """fp32, fp16 or int8: what most bytes of the constants are stored in."""
    stored = constant_bytes(*graphs)
    return max(PRECISIONS, key=lambda name: stored.get(PRECISIONS[name].dtype, 0))


def computes_in_integers(graph: Graph) -> bool:
    """Whether activations are quantized (static quantization), and not the weights alone."""
    return any(
        tensors[0].scale is not None and tensors[0].dtype in ("int8", "uint8", "int16") and not tensors[0].constant
        for op in graph.ops
        if op.name not in ("QUANTIZE", "DEQUANTIZE") and (tensors := [t for t in op.inputs if t is not None])
    )


def macs(*graphs: Graph) -> int:
    """Multiply-accumulates of one run of each: those of FULLY_CONNECTED, BATCH_MATMUL, CONV_2D and
    DEPTHWISE_CONV_2D."""
    return sum(_op_macs(op) for graph in graphs for op in graph.ops)


def _touched(*graphs: Graph) -> list[Tensor]:
    return [
        tensor for graph in graphs for op in graph.ops for tensor in (*op.inputs, *op.outputs) if tensor is not None
    ]


def _op_macs(op: Op) -> int:
    if len(op.inputs) < 2 or not op.outputs or op.inputs[0] is None or op.inputs[1] is None:
        return 0
    left, right = op.inputs[0].shape, op.inputs[1].shape
    reduced = {
        "FULLY_CONNECTED": lambda: right[-1:],  # weights [out, in]
        "BATCH_MATMUL": lambda: left[-2:-1] if op.options.get("adj_x") else left[-1:],
        "CONV_2D": lambda: right[1:],  # weights [out, height, width, in]
        "DEPTHWISE_CONV_2D": lambda: right[1:3],  # weights [1, height, width, out]
    }.get(op.name)
    return 0 if reduced is None else math.prod(op.outputs[0].shape) * math.prod(reduced())
