"""What else runs a tower on a CPU: each a function of no arguments that returns one embedding, for `pecore.timing`.

All take the same image, the same number of threads, and give the same embedding, L2-normalised. ONNX Runtime, OpenVINO
and the ONNX exporter come with the `bench` extra; `missing` says which of them is not there.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pecore.errors import InputError
from pecore.runtime import open_model

Baseline = Callable[[], np.ndarray]
"""One forward pass -> the embedding `[1, D]`."""

EXTRA = ("onnx", "onnxscript", "onnxruntime", "openvino")


def missing() -> list[str]:
    """Packages of the `bench` extra that are not installed."""
    return [name for name in EXTRA if find_spec(name) is None]


def litert(path: Path, image: np.ndarray, threads: int, weight_cache: Path | None = None) -> Baseline:
    """LiteRT's CPU runtime, XNNPACK; `weight_cache` as `open_model` takes it."""
    model = open_model(path, threads=threads, weight_cache=weight_cache)
    name, output = next(iter(model.inputs)), next(iter(model.outputs))
    return lambda: model.run({name: image})[output]


def eager(model: nn.Module, image: np.ndarray, threads: int) -> Baseline:
    """PyTorch, op by op. Its threads are the process's: they are set at each run."""
    tensor = torch.from_numpy(image)

    def run() -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(tensor).numpy()

    return run


def compiled(model: nn.Module, image: np.ndarray, threads: int) -> Baseline:
    """`torch.compile` with its defaults; it compiles here (a minute or two, a C++ compiler is needed).

    Raises:
        InputError: it can't compile here.
    """
    torch.set_num_threads(threads)  # generated code is for this many
    torch._dynamo.reset()
    run = eager(torch.compile(model), image, threads)  # type: ignore[arg-type]
    try:
        run()
    except Exception as error:  # whatever inductor and the compiler it calls come up with
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"torch.compile fails here ({reason}); install a C++ compiler") from error
    return run


def onnx_runtime(path: Path, image: np.ndarray, threads: int) -> Baseline:
    """ONNX Runtime's CPU provider with its defaults: every graph optimisation on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})[0]


def openvino(path: Path, image: np.ndarray, threads: int) -> Baseline:
    """OpenVINO's CPU plugin, held to float32 (it would take bf16 where the CPU has it)."""
    from openvino import Core

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    graph = Core().compile_model(str(path), "CPU", options)
    return lambda: np.array(graph(image)[0])


def export_onnx(model: nn.Module, image: Tensor, path: Path) -> None:
    """`model` as ONNX, one file, through PyTorch's own exporter.

    The exporter's notes on inner shapes are left out: some are wrong once ONNX Runtime's quantizer has transposed the
    weights, and it then refuses the file.
    """
    import onnx

    program = torch.onnx.export(
        model.eval(), (image,), dynamo=True, input_names=["image"], output_names=["embedding"], verbose=False
    )
    proto: Any = program.model_proto if program is not None else None
    del proto.graph.value_info[:]
    onnx.save(proto, path)


def quantize_onnx(source: Path, target: Path) -> None:
    """int8 weights per channel, activations quantized while running: ONNX Runtime's counterpart of our int8 files."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8, per_channel=True)
