"""Run a `.tflite`: one small class per backend behind one `Model` protocol.

    model = open_model("pe_core_base_224_fp16.tflite", backend="cpu", threads=4)
    embedding = model.run({"image": image})["embedding"]

Inputs and outputs are addressed by the names of one of the file's signatures, the first by default (`image` ->
`embedding`), or, in a file without signatures, by the graph's own tensor names.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, GpuOptions, HardwareAccelerator, Options
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pecore.errors import InputError
from pecore.precision import COMPUTES, Compute
from pecore.tflite_file import check_tflite_head, not_known

Backend = Literal["cpu", "gpu", "tensorflow"]
Arrays = dict[str, np.ndarray]


class CannotRunError(InputError):
    """The file is a well-formed `.tflite`, but this runtime can't load it, or fails when it runs it."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of an input or output of a graph.

    open: the same shape with -1 where the file leaves a size open, or None where it leaves none. scale, zero_point: of
    a tensor quantized as a whole, whose real values are scale * (stored - zero_point); None of any other.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    open: tuple[int, ...] | None = field(default=None, compare=False)
    scale: float | None = field(default=None, compare=False)
    zero_point: int = field(default=0, compare=False)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` fits, sizes that are left open being free."""
        wanted = self.open or self.shape
        return len(shape) == len(wanted) and all(w in (-1, n) for w, n in zip(wanted, shape))

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
    signature: str | None = None,
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
        signature: the key of one of the file's signatures; its first where None.

    Raises:
        InputError: no such backend, `compute` or signature, a folder that can't be written to, not a `.tflite`,
            TensorFlow missing, or a GPU that refuses the graph.
        CannotRunError: an InputError about a well-formed graph that this runtime can't load.
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
        return LiteRtGpuModel(path, compute, signature)
    if weight_cache is not None:
        return LiteRtCachedModel(path, threads or os.cpu_count() or 1, weight_cache, signature)
    interpreter = LiteRtCpuModel if backend == "cpu" else TensorFlowModel
    return interpreter(path, threads or os.cpu_count() or 1, signature)


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
        CannotRunError: it uses what is newer than this runtime.
    """
    path = Path(path)
    check_tflite_head(path)
    try:
        Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    except (ValueError, RuntimeError) as error:
        raise _not_loaded(path, str(error)) from error


_TOO_NEW = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
_NO_SUCH_OP = re.compile(r"Op builtin_code out of range: (\d+)")
_NO_SUCH_TYPE = re.compile(r"Unsupported data type (\d+) in tensor")


def _not_loaded(path: Path, reason: str) -> InputError:
    """Why the interpreter does not take a file, told apart by its words."""
    if found := _TOO_NEW.search(reason):
        what = f"{found[1]} in version {found[2]}, which is newer than this runtime, LiteRT {version('ai-edge-litert')}"
        return CannotRunError(
            f"{path} has {what}: run `pip install -U ai-edge-litert`, or convert it with an older converter"
        )
    if found := _NO_SUCH_OP.search(reason):
        return CannotRunError(f"{path} {not_known(f'an operation of code {found[1]}')}")
    if found := _NO_SUCH_TYPE.search(reason):
        return CannotRunError(f"{path} {not_known(f'a tensor of type {found[1]}')}")
    return InputError(f"{path} is damaged ({_last_line(reason)}); convert or download it again")


class _InterpreterModel:
    """The interpreter interface that LiteRT and TensorFlow share."""

    def __init__(self, path: Path, interpreter: Any, signature: str | None) -> None:
        self.path = path
        try:
            interpreter.allocate_tensors()
            signature = choose_signature(path, list(interpreter.get_signature_list()), signature)
            runner = interpreter.get_signature_runner(signature) if signature else None
            if runner:
                inputs, outputs = runner.get_input_details(), runner.get_output_details()
            else:
                inputs = {tensor["name"]: tensor for tensor in interpreter.get_input_details()}
                outputs = {tensor["name"]: tensor for tensor in interpreter.get_output_details()}
            self.inputs, self.outputs = _specs(inputs), _specs(outputs)
        except InputError:
            raise
        except (ValueError, RuntimeError) as error:  # ValueError: a name that is not UTF-8, too
            raise CannotRunError(f"this runtime can't run {path}: {_reason(error)}; try another backend") from error
        if runner:
            self._forward: Callable[..., Arrays] = runner
        else:

            def forward(**arrays: np.ndarray) -> Arrays:
                for name, array in arrays.items():
                    interpreter.resize_tensor_input(inputs[name]["index"], array.shape)
                interpreter.allocate_tensors()
                for name, array in arrays.items():
                    interpreter.set_tensor(inputs[name]["index"], array)
                interpreter.invoke()
                return {name: interpreter.get_tensor(tensor["index"]) for name, tensor in outputs.items()}

            self._forward = forward

    def run(self, inputs: Arrays) -> Arrays:
        """See `Model.run`. Takes any size where the file leaves one open."""
        check_inputs(self.path, self.inputs, inputs, resizable=True)
        try:
            return self._forward(**inputs)
        except (ValueError, RuntimeError) as error:
            raise CannotRunError(
                f"{self.path} fails when it runs: {_reason(error)}; check its inputs, or convert it again"
            ) from error


class LiteRtCpuModel(_InterpreterModel):
    """LiteRT's interpreter with XNNPACK."""

    def __init__(self, path: Path, threads: int, signature: str | None = None) -> None:
        try:
            interpreter = Interpreter(str(path), num_threads=threads)
        except (ValueError, RuntimeError) as error:
            raise CannotRunError(f"this runtime can't run {path}: {_reason(error)}; try another backend") from error
        super().__init__(path, interpreter, signature)


class TensorFlowModel(_InterpreterModel):
    """TensorFlow's `tf.lite.Interpreter`: needs the `tensorflow` extra."""

    def __init__(self, path: Path, threads: int, signature: str | None = None) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            hint = "TensorFlow is not installed; run `pip install 'pecore-litert[tensorflow]'` or take the cpu backend"
            raise InputError(hint) from error
        super().__init__(path, tf.lite.Interpreter(str(path), num_threads=threads), signature)


class _CompiledModel:
    """LiteRT's `CompiledModel` interface, with buffers that are made once."""

    def __init__(self, path: Path, options: Options, signature: str | None) -> None:
        self.path = path
        self._model = CompiledModel.from_file(str(path), options=options)
        known = list(self._model.get_signature_list())
        # A file without signatures gets one from `CompiledModel`, of a name of its own.
        self._signature = signature = str(choose_signature(path, known, signature))
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

    def __init__(self, path: Path, threads: int, folder: Path, signature: str | None = None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about = path.stat()
        except OSError as error:
            raise InputError(f"can't keep packed weights in {folder}: {error.strerror}; give another folder") from error
        # XNNPACK looks for weights by their place in the model file, whatever that holds by now: a changed file needs
        # another name.
        cache = folder / f"{path.stem}-{about.st_size}-{about.st_mtime_ns}.xnnpack"
        cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(cache))
        super().__init__(path, Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu), signature)


class LiteRtGpuModel(_CompiledModel):
    """`CompiledModel` on the ML Drift delegate, strict: every op on the GPU, or an InputError."""

    def __init__(self, path: Path, compute: Compute, signature: str | None = None) -> None:
        gpu = GpuOptions(enforce_f32=compute == "fp32")
        try:
            super().__init__(path, Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=gpu), signature)
        except RuntimeError as error:
            reason = _last_line(str(error))
            raise InputError(f"the GPU delegate refused {path} ({reason}); `pecore validate` says why") from error
        if not self._model.is_fully_accelerated():
            raise InputError(f"{path} would run partly on the CPU; `pecore validate` says which ops the GPU refused")


def choose_signature(path: Path, known: list[str], wanted: str | None) -> str | None:
    """`wanted`, or the first of a file's signatures; None where it has none. InputError for one that it has not."""
    if wanted is None or wanted in known:
        return wanted or next(iter(known), None)
    raise InputError(f"{path} has no signature {wanted!r}; it has {', '.join(known) or 'none'}")


def check_inputs(path: Path, specs: dict[str, TensorSpec], inputs: Arrays, *, resizable: bool = False) -> None:
    """Compare arrays with what a graph takes, name by name; raises InputError at the first difference. `resizable`
    leaves those sizes free that the file leaves open."""
    if set(inputs) != set(specs):
        given, wanted = ", ".join(sorted(inputs)) or "none", ", ".join(specs)
        raise InputError(f"{path.name} takes the inputs {wanted}, but was given {given}")
    for name, spec in specs.items():
        given_spec = TensorSpec(inputs[name].shape, inputs[name].dtype)
        fits = spec.takes(given_spec.shape) and given_spec.dtype == spec.dtype if resizable else given_spec == spec
        if not fits:
            raise InputError(f"input {name} is {given_spec}, but {path.name} expects {spec}")


def _specs(details: dict[str, dict[str, Any]]) -> dict[str, TensorSpec]:
    return {name: _spec(tensor) for name, tensor in details.items()}


def _spec(tensor: dict[str, Any]) -> TensorSpec:
    shape, written = (tuple(int(n) for n in tensor.get(key, ())) for key in ("shape", "shape_signature"))
    scale, zero_point = tensor.get("quantization", (0.0, 0))
    return TensorSpec(
        shape,
        np.dtype(tensor["dtype"]),
        open=written if -1 in written else None,
        scale=float(scale) or None,
        zero_point=int(zero_point),
    )


def _last_line(text: str) -> str:
    lines = [line.strip(" └") for line in text.splitlines() if line.strip(" └")]
    return lines[-1].rstrip(".") if lines else "it does not say why"


def _reason(error: Exception) -> str:
    """What an interpreter says of a node that fails, in one line and without its links and advice."""
    text = re.sub(r"(See instructions|Make sure|For the Android).*?(?=Node number|$)", "", str(error), flags=re.S)
    told, number, node = text.partition("Node number")
    parts = (" ".join(part.split()).strip(" .") for part in (told, number + node))
    return ". ".join(part for part in parts if part) or type(error).__name__
