"""Run a `.tflite`: one small class per backend behind one `Model` protocol.

    model = open_model("pe_core_base_224_fp16.tflite", backend="cpu", threads=4)
    embedding = model.run({"image": image})["embedding"]

Inputs and outputs are addressed by the names of the graph's first signature (`image` -> `embedding`), or, in a file
without signatures, by the graph's own tensor names.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, GpuOptions, HardwareAccelerator, Options
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pecore.errors import InputError
from pecore.precision import COMPUTES, Compute

Backend = Literal["cpu", "gpu", "tensorflow"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of an input or output of a graph."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


class Model(Protocol):
    """A loaded graph. `inputs` and `outputs` map each tensor's name to its `TensorSpec`."""

    path: Path
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def run(self, inputs: Arrays) -> Arrays:
        """One forward pass. The returned arrays are the caller's own.

        Raises:
            InputError: a name, shape or dtype differs from `self.inputs`.
        """
        ...


def open_model(
    path: str | Path,
    backend: Backend = "cpu",
    threads: int | None = None,
    compute: Compute = "fp16",
    weight_cache: Path | None = None,
) -> Model:
    """Load a `.tflite`.

    Args:
        path: the model file.
        backend: `cpu` is LiteRT with XNNPACK; `gpu` is LiteRT's ML Drift delegate in this process, strict (no op may
            fall back to the CPU), where a bad graph can take the process down: `validate.gpu` is the safe way; and
            `tensorflow` is TensorFlow's own interpreter, an independent build of the CPU kernels.
        threads: CPU threads, by default one per core; the GPU takes none.
        compute: what the GPU computes in, whatever the weights are stored in; the CPU takes the graph's own types.
        weight_cache: a folder for XNNPACK's packed weights (`cpu` alone): the next load of this file maps them instead
            of packing them again. They take about the bytes of the float32 weights; docs/benchmarks.md has what it is
            worth.

    Raises:
        InputError: no such backend or `compute`, a folder that can't be written to, not a `.tflite`, TensorFlow
            missing, or a GPU that refuses the graph.
    """
    if backend not in ("cpu", "gpu", "tensorflow"):
        raise InputError(f"{backend!r} is no backend; take cpu, gpu or tensorflow")
    check_compute(compute)
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads can't run anything; take 1 or more")
    if weight_cache is not None and backend != "cpu":
        raise InputError(f"the {backend} backend has no weight cache; leave weight_cache out, or take the cpu backend")
    path = Path(path)
    check_model_file(path)
    if backend == "gpu":
        return LiteRtGpuModel(path, compute)
    if weight_cache is not None:
        return LiteRtCachedModel(path, threads or os.cpu_count() or 1, weight_cache)
    interpreter = LiteRtCpuModel if backend == "cpu" else TensorFlowModel
    return interpreter(path, threads or os.cpu_count() or 1)


def check_compute(compute: str) -> None:
    """Raise InputError for what a GPU can't be asked to compute in."""
    if compute not in COMPUTES:
        raise InputError(f"a GPU computes in {' or '.join(COMPUTES)}, not in {compute!r}; take one of them")


def check_model_file(path: str | Path) -> None:
    """Refuse what is no well-formed `.tflite`.

    The interpreter verifies the flatbuffer before it builds on it; `CompiledModel` does not, and segfaults on a file
    that was cut short.

    Raises:
        InputError: the file is missing, empty, unreadable, of another format, or damaged.
    """
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"LiteRT takes no file name that is not UTF-8: rename {path}") from error
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}; give the path of a .tflite file") from error
    if not head:
        raise InputError(f"{path} is empty; convert the model again")
    if head[4:] != b"TFL3":
        raise InputError(f"{path} is not a .tflite file (no TFL3 mark); give one that `pecore convert` wrote")
    try:
        Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({_last_line(error)}); convert or download it again") from error


class _InterpreterModel:
    """The interpreter interface that LiteRT and TensorFlow share."""

    def __init__(self, path: Path, interpreter: Any) -> None:
        self.path = path
        try:
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"this runtime can't run {path}: {_last_line(error)}; try another backend") from error
        signatures = interpreter.get_signature_list()
        if signatures:
            runner = interpreter.get_signature_runner(next(iter(signatures)))
            self.inputs, self.outputs = _specs(runner.get_input_details()), _specs(runner.get_output_details())
            self._forward: Callable[..., Arrays] = runner
        else:
            inputs = {tensor["name"]: tensor for tensor in interpreter.get_input_details()}
            outputs = {tensor["name"]: tensor for tensor in interpreter.get_output_details()}
            self.inputs, self.outputs = _specs(inputs), _specs(outputs)

            def forward(**arrays: np.ndarray) -> Arrays:
                for name, array in arrays.items():
                    interpreter.set_tensor(inputs[name]["index"], array)
                interpreter.invoke()
                return {name: interpreter.get_tensor(tensor["index"]) for name, tensor in outputs.items()}

            self._forward = forward

    def run(self, inputs: Arrays) -> Arrays:
        """See `Model.run`."""
        check_inputs(self.path, self.inputs, inputs)
        return self._forward(**inputs)


class LiteRtCpuModel(_InterpreterModel):
    """LiteRT's interpreter with XNNPACK."""

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path, Interpreter(str(path), num_threads=threads))


class TensorFlowModel(_InterpreterModel):
    """TensorFlow's `tf.lite.Interpreter`: needs the `tensorflow` extra."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            hint = "TensorFlow is not installed; run `pip install 'pecore-litert[tensorflow]'` or take the cpu backend"
            raise InputError(hint) from error
        super().__init__(path, tf.lite.Interpreter(str(path), num_threads=threads))


class _CompiledModel:
    """LiteRT's `CompiledModel` interface, with buffers that are made once."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self._model = CompiledModel.from_file(str(path), options=options)
        self._signature = signature = next(iter(self._model.get_signature_list()))
        self.inputs = _specs(self._model.get_input_tensor_details(signature))
        self.outputs = _specs(self._model.get_output_tensor_details(signature))
        self._input_buffers = {name: self._model.create_input_buffer_by_name(signature, name) for name in self.inputs}
        self._output_buffers = {
            name: self._model.create_output_buffer_by_name(signature, name) for name in self.outputs
        }

    def run(self, inputs: Arrays) -> Arrays:
        """See `Model.run`. Waits for a GPU: reading a buffer synchronises."""
        check_inputs(self.path, self.inputs, inputs)
        for name, array in inputs.items():
            self._input_buffers[name].write(array)
        self._model.run_by_name(self._signature, self._input_buffers, self._output_buffers)
        return {
            name: self._output_buffers[name].read(int(np.prod(spec.shape)), spec.dtype).reshape(spec.shape)
            for name, spec in self.outputs.items()
        }


class LiteRtCachedModel(_CompiledModel):
    """XNNPACK with its packed weights in a file. The interpreter's Python interface does not offer that."""

    def __init__(self, path: Path, threads: int, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about = path.stat()
        except OSError as error:
            raise InputError(f"can't keep packed weights in {folder}: {error.strerror}; give another folder") from error
        # XNNPACK looks for weights by their place in the model file, whatever that holds by now: a changed file needs
        # another name.
        cache = folder / f"{path.stem}-{about.st_size}-{about.st_mtime_ns}.xnnpack"
        cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(cache))
        super().__init__(path, Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu))


class LiteRtGpuModel(_CompiledModel):
    """`CompiledModel` on the ML Drift delegate, strict: every op on the GPU, or an InputError."""

    def __init__(self, path: Path, compute: Compute) -> None:
        gpu = GpuOptions(enforce_f32=compute == "fp32")
        try:
            super().__init__(path, Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=gpu))
        except RuntimeError as error:
            reason = _last_line(error)
            raise InputError(f"the GPU delegate refused {path} ({reason}); `pecore validate` says why") from error
        if not self._model.is_fully_accelerated():
            raise InputError(f"{path} would run partly on the CPU; `pecore validate` says which ops the GPU refused")


def check_inputs(path: Path, specs: dict[str, TensorSpec], inputs: Arrays) -> None:
    """Compare arrays with what a graph takes, name by name; raises InputError at the first difference."""
    if set(inputs) != set(specs):
        given, wanted = ", ".join(sorted(inputs)) or "none", ", ".join(specs)
        raise InputError(f"{path.name} takes the inputs {wanted}, but was given {given}")
    for name, spec in specs.items():
        given_spec = TensorSpec(inputs[name].shape, inputs[name].dtype)
        if given_spec != spec:
            raise InputError(f"input {name} is {given_spec}, but {path.name} expects {spec}")


def _specs(details: dict[str, dict[str, Any]]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(tuple(int(dim) for dim in tensor["shape"]), np.dtype(tensor["dtype"]))
        for name, tensor in details.items()
    }


def _last_line(error: Exception) -> str:
    lines = [line.strip(" └") for line in str(error).splitlines() if line.strip(" └")]
    return lines[-1].rstrip(".") if lines else type(error).__name__
