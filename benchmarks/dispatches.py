"""What ML Drift launches for one inference of a `.tflite`: kernels, barriers, bytes of GPU memory.

    python -m benchmarks.dispatches FILE.tflite

A Vulkan layer (`vulkan_layer.c`) between the delegate and the driver writes down each call. The counts depend on the
delegate's version and on the kind of adapter, and not on how fast or busy it is. Compiling the layer needs a C compiler
and Vulkan's headers: `sudo apt install gcc libvulkan-dev`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.workspace import FOLDER
from pecore.errors import InputError
from pecore.precision import COMPUTES, Compute
from pecore.validate.child import run_child

LAYER = "VK_LAYER_pecore_trace"
SOURCE = Path(__file__).with_name("vulkan_layer.c")
TRACE_VARIABLE = "PECORE_TRACE"
RUNS = 2
"""The first also uploads weights; the second is what is counted."""


@dataclass(frozen=True)
class Launches:
    """One inference on the delegate, warm.

    kernels, barriers, copies: commands recorded for it. memory: bytes of device memory held after it, weights and
    activations. whole: every op is on the GPU; where it is not, the counts are those of the ops that are.
    """

    kernels: int
    barriers: int
    copies: int
    memory: int
    whole: bool


def build_layer(folder: Path = FOLDER / "layer") -> Path:
    """The folder with the compiled layer and its manifest; compiled where it is not there, or older than its source.

    Raises:
        InputError: there is no compiler, or there are no headers.
    """
    library, compiler = folder / "libpecore_trace.so", shutil.which("cc")
    if library.exists() and library.stat().st_mtime > SOURCE.stat().st_mtime:
        return folder
    remedy = "counting kernels takes a C compiler and Vulkan's headers: sudo apt install gcc libvulkan-dev"
    if compiler is None:
        raise InputError(f"there is no cc here; {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    made = library.with_name(f"making_{library.name}")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE)]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise InputError(f"{SOURCE.name} doesn't compile ({child.stderr.strip().splitlines()[0]}); {remedy}")
    made.rename(library)
    about = {"name": LAYER, "type": "GLOBAL", "library_path": f"./{library.name}", "api_version": "1.3.0"}
    about |= {"implementation_version": "1", "description": "what is launched"}
    manifest = {"file_format_version": "1.0.0", "layer": about}
    (folder / f"{LAYER}.json").write_text(json.dumps(manifest))
    return folder


def count(path: Path, compute: Compute = "fp16", timeout_s: float = 600) -> Launches:
    """Run a file in a child process with the layer in between.

    Raises:
        InputError: no layer, no adapter, a graph of which the delegate takes nothing, or a run that failed.
    """
    layer = build_layer()
    with tempfile.TemporaryDirectory(prefix="pecore-trace-") as folder:
        trace, log = Path(folder, "trace"), Path(folder, "log")
        environment = {
            TRACE_VARIABLE: str(trace),
            "VK_LAYER_PATH": str(layer),
            "VK_INSTANCE_LAYERS": LAYER,
            "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or folder,
        }
        command = [sys.executable, "-m", "benchmarks.dispatches", "--child", "--compute", compute, str(path)]
        returncode = run_child(command, (log, log), timeout_s, environment)
        if returncode != 0 or not trace.exists():
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise InputError(f"{path} did not run on ML Drift ({' '.join(last)}); `pecore validate` says why")
        return parse(trace.read_text().splitlines())


def parse(lines: Iterable[str]) -> Launches:
    """The counts of the last run in a trace: what the layer wrote, with a line `run` before each run and `end WHOLE`
    after the last.

    Raises:
        InputError: the runs launched different numbers of kernels, so that no count is the count.
    """
    runs: list[Counter[str]] = []
    held: dict[str, int] = {}
    whole = False
    for line in lines:
        what, *rest = line.split()
        if what == "run":
            runs.append(Counter())
        elif what == "end":
            whole = rest[0] == "True"
            break
        elif what == "allocate":
            held[rest[0]] = int(rest[1])
        elif what == "free":
            held.pop(rest[0], None)
        elif runs:
            runs[-1][what] += 1
    kernels = [run["dispatch"] for run in runs]
    if len(runs) < RUNS or len(set(kernels)) > 1:
        raise InputError(f"the runs of one graph launched {kernels} kernels, which should be the same number")
    last = runs[-1]
    return Launches(last["dispatch"], last["barrier"], last["copy"], sum(held.values()), whole)


def child(path: Path, compute: Compute) -> None:
    """In this process: `RUNS` runs, marked in the trace. Ops that the GPU refuses run on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel, GpuOptions, HardwareAccelerator, Options

    from pecore.runtime import TensorSpec
    from pecore.validate.gpu_child import noise

    gpu = GpuOptions(enforce_f32=compute == "fp32")
    try:
        model = CompiledModel.from_file(str(path), options=Options(HardwareAccelerator.GPU, gpu_options=gpu))
        whole = model.is_fully_accelerated()
    except RuntimeError:
        both = HardwareAccelerator.GPU | HardwareAccelerator.CPU
        model, whole = CompiledModel.from_file(str(path), options=Options(both, gpu_options=gpu)), False
    signature = next(iter(model.get_signature_list()))
    details = model.get_input_tensor_details(signature)
    specs = {name: TensorSpec(tuple(map(int, t["shape"])), np.dtype(t["dtype"])) for name, t in details.items()}
    inputs = {name: model.create_input_buffer_by_name(signature, name) for name in specs}
    outputs = {n: model.create_output_buffer_by_name(signature, n) for n in model.get_output_tensor_details(signature)}
    shapes = {name: tuple(map(int, t["shape"])) for name, t in model.get_output_tensor_details(signature).items()}
    for name, array in noise(specs).items():
        inputs[name].write(array)
    for _ in range(RUNS):
        _mark("run")
        model.run_by_name(signature, inputs, outputs)
        for name, buffer in outputs.items():
            buffer.read(int(np.prod(shapes[name])), np.float32)  # waits for the GPU
    _mark(f"end {whole}")
    os._exit(0)  # a driver that crashes while it is torn down must not look like a failed run


def _mark(words: str) -> None:
    with open(os.environ[TRACE_VARIABLE], "a") as trace:
        print(words, file=trace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--compute", choices=COMPUTES, default="fp16")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.file, options.compute)
        return
    try:
        print(json.dumps(vars(count(options.file, options.compute))))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
