"""The child process of `pecore.validate.npu` that executes a context: one file, any number of inputs, then out.

    python -m pecore.validate.npu_child FOLDER

reads `request.json` (`model`, `inputs`) and `input_0.npz`, ... from FOLDER, and writes `output_0.npz`, ... and
`result.json`, which is rewritten after every step.

A context inside a compiled `.tflite` is opaque bytes after the flatbuffer. ONNX Runtime's QNN provider executes such
bytes for a node of the type EPContext that names a file of them: the graph written here is that one node.
"""

import json
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pecore.validate.child import load_arrays, reporter, save_arrays

DISPATCH = b"DISPATCH_OP"


class Dispatch(NamedTuple):
    """One piece of a compiled `.tflite` for the NPU: which of the file's graphs it is in, its name in the context, and
    where the context is in the file."""

    graph: int
    name: str
    offset: int
    size: int


class Tensor(NamedTuple):
    """An input or output: its name in the first signature, shape, and NumPy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def dispatches(path: Path) -> tuple[list[Dispatch], int]:
    """The pieces for the NPU in a compiled `.tflite`, and the number of ops left to the CPU, of all its graphs."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers

    found, left = [], 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = schema.Model.GetRootAs(data, 0)
        for i in range(model.SubgraphsLength()):
            graph = model.Subgraphs(i)
            for op in map(graph.Operators, range(graph.OperatorsLength())):
                if model.OperatorCodes(op.OpcodeIndex()).CustomCode() != DISPATCH:
                    left += 1
                    continue
                options: Any = flexbuffers.GetRoot(op.CustomOptionsAsNumpy().tobytes()).Value
                found.append(Dispatch(i, options["name"], options["bytecode_offset"], options["bytecode_size"]))
    return found, left


def first_graph(path: Path) -> tuple[int, list[Tensor], list[Tensor]]:
    """The number of the first signature's graph in a compiled `.tflite`, and the inputs and outputs of its only op, in
    the op's order."""
    from ai_edge_litert import schema_py_generated as schema

    dtypes = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = schema.Model.GetRootAs(data, 0)
        index, named = 0, {}
        if model.SignatureDefsLength():
            first = model.SignatureDefs(0)
            index = first.SubgraphIndex()
            maps = [*map(first.Inputs, range(first.InputsLength())), *map(first.Outputs, range(first.OutputsLength()))]
            named = {m.TensorIndex(): m.Name().decode() for m in maps}
        graph = model.Subgraphs(index)

        def described(indices: Any) -> list[Tensor]:
            picked = [(index, graph.Tensors(index)) for index in map(int, indices)]
            return [
                Tensor(named.get(i) or t.Name().decode(), tuple(t.ShapeAsNumpy().tolist()), np.dtype(dtypes[t.Type()]))
                for i, t in picked
            ]

        op = graph.Operators(0)
        return index, described(op.InputsAsNumpy()), described(op.OutputsAsNumpy())


def write_onnx(model: Path, folder: Path) -> tuple[Path, list[Tensor], list[Tensor]]:
    """An ONNX graph of one EPContext node that executes the first signature's context; what goes in and comes out."""
    import onnx
    from onnx import helper

    index, inputs, outputs = first_graph(model)
    (dispatch,) = (piece for piece in dispatches(model)[0] if piece.graph == index)
    with model.open("rb") as file:
        file.seek(dispatch.offset)
        (folder / "context.bin").write_bytes(file.read(dispatch.size))
    given, made = (
        [helper.make_tensor_value_info(t.name, helper.np_dtype_to_tensor_dtype(t.dtype), t.shape) for t in some]
        for some in (inputs, outputs)
    )
    node = helper.make_node(
        "EPContext",
        [t.name for t in inputs],
        [t.name for t in outputs],
        domain="com.microsoft",
        main_context=1,
        embed_mode=0,
        ep_cache_context="context.bin",
        source="QNNExecutionProvider",
        partition_name=dispatch.name,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_model(helper.make_graph([node], "context", given, made), opset_imports=versions, ir_version=10)
    path = folder / "context.onnx"
    onnx.save(graph, str(path))
    return path, inputs, outputs


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on QNN's HTP back end alone."""
    import onnxruntime
    import onnxruntime_qnn

    provider = onnxruntime_qnn.get_ep_name()
    onnxruntime.register_execution_provider_library(provider, onnxruntime_qnn.get_library_path())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    options.add_provider_for_devices(devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path()})
    return onnxruntime.InferenceSession(str(path), options)


def main() -> None:
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    report = reporter(folder / "result.json")
    report(stage="loading the context")
    run_s: list[float] = []
    try:
        path, inputs, outputs = write_onnx(Path(request["model"]), folder)
        session = open_session(path)
        for i in range(request["inputs"]):
            report(run_s=run_s, stage=f"running input {i + 1} of {request['inputs']}")
            arrays, start = load_arrays(folder / f"input_{i}.npz"), time.perf_counter()
            got = session.run([t.name for t in outputs], {t.name: arrays[t.name] for t in inputs})
            run_s.append(time.perf_counter() - start)
            save_arrays(folder / f"output_{i}.npz", {t.name: array for t, array in zip(outputs, got)})
    except Exception as error:  # ONNX Runtime raises classes of its own; whatever it is, it is what the parent reports
        print(repr(error), file=sys.stderr)
        report(failed=" ".join(str(error).split())[:500])
        return
    report(run_s=run_s, stage="done")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is on disk; a library that crashes while it is torn down must not look like a failed run
