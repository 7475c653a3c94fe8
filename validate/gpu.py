"""Run a `.tflite` on the real ML Drift GPU delegate, in a child process, and say what happened.

The delegate in LiteRT's Linux wheel is the one phones run, on WebGPU instead of OpenCL. It needs a Vulkan driver; a
software one (Mesa lavapipe) will do. It may crash on a graph it doesn't know (every `odml.*` composite did so with
ai-edge-litert 2.3.0), and it says why it refuses an op only on the process's stderr: hence the child.

    python -m pecore.validate.gpu        names the adapter that would be used; exit code 1 if there is none
"""

import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from pecore.errors import InputError
from pecore.precision import Compute
from pecore.runtime import Arrays, check_compute
from pecore.validate.child import how_it_ended, load_arrays, run_child, save_arrays, shorten, signal_name

NO_ADAPTER_REMEDY = (
    "install a software Vulkan driver, Mesa 25 or newer: `make gpu-driver` (Debian 12 or newer, Ubuntu 24.04 or newer, "
    "Fedora), or by hand `sudo apt install mesa-vulkan-drivers libvulkan1` (on Debian 12 from bookworm-backports), "
    "`sudo dnf install mesa-vulkan-drivers vulkan-loader`"
)


class Verdict(StrEnum):
    """What came of a run on the delegate."""

    RAN = "ran"  # every op on the GPU, and here are the outputs
    NOT_ON_GPU = "not_on_gpu"  # it ran, but on no adapter that the delegate named
    REFUSED = "refused"  # the delegate took only some of the ops, or none
    CRASHED = "crashed"
    FAILED = "failed"  # every op was taken, and then the run itself ended with an error
    TIMED_OUT = "timed_out"  # stopped by `timeout_s`
    GAVE_UP = "gave_up"  # LiteRT itself stopped waiting for the GPU: the machine was too busy
    NO_ADAPTER = "no_adapter"  # no Vulkan driver, or none that the delegate accepts


GAVE_UP_WORDS = "Failed to lock custom tensor buffer"
"""What LiteRT says when it has waited 120 s for the GPU. The limit is a constant in its library (2.3.0): there is no
option to raise it."""

GAVE_UP_REMEDY = (
    "LiteRT gave up waiting for the GPU after its own limit of two minutes, which says nothing about the model: "
    "run it again when the machine is less busy"
)

NOT_JUDGED = frozenset({Verdict.TIMED_OUT, Verdict.GAVE_UP})
"""Verdicts of a run that failed without saying anything about the model."""


@dataclass(frozen=True)
class Adapter:
    """The GPU, or the software in its place, that the delegate chose."""

    name: str  # "llvmpipe (LLVM 15.0.6, 256 bits)"
    kind: str  # "CPU / Software", "Discrete GPU", ...
    software: bool
    driver: str | None  # "llvmpipe, Mesa 25.0.7-2 (LLVM 15.0.6)"; None where Vulkan doesn't tell


@dataclass(frozen=True)
class RefusedOp:
    """One kind of op that the delegate refused for one reason; the delegate names each such pair once."""

    op: str  # "RESHAPE"
    reason: str  # "Tensor dimensions must be less than 5. ..."


@dataclass(frozen=True)
class GpuRun:
    """A run on the delegate. Times are in seconds, wall clock; fields a run didn't reach are None or empty."""

    verdict: Verdict
    detail: str  # one sentence
    compute: Compute
    litert_version: str
    adapter: Adapter | None = None
    ops: int | None = None  # M: ops in the graph
    ops_on_gpu: int | None = None  # N of M
    refused: tuple[RefusedOp, ...] = ()
    outputs: tuple[Arrays, ...] = ()  # one dict for each input
    compile_s: float | None = None
    run_s: tuple[float, ...] = ()  # one for each input
    bit_equal: bool = False  # the outputs are the CPU's to the last bit, though in fp16 they could not be
    signal: str | None = None  # "SIGSEGV"
    log: str = ""  # the native libraries' stdout and stderr, shortened in the middle


def probe() -> Adapter | None:
    """The adapter that the delegate would run on, or None; takes about a second.

    Asks the delegate itself, with a graph of one op: a driver that Vulkan lists may still be one it refuses.
    """
    with tempfile.TemporaryDirectory(prefix="pecore-gpu-") as folder:
        model = Path(folder, "probe.tflite")
        model.write_bytes(one_op_model())
        return run_on_gpu(model, timeout_s=120).adapter


def run_on_gpu(
    path: str | Path,
    inputs: Sequence[Arrays] = (),
    compute: Compute = "fp16",
    timeout_s: float = 600,
    cpu_outputs: Sequence[Arrays] | None = None,
    signature: str | None = None,
) -> GpuRun:
    """Compile a graph once for the GPU, strict (no op may fall back to the CPU), and run every input through it.

    Whatever the graph does to the child, this returns; and the child is gone when it returns or raises (Ctrl-C
    included), or when this process is killed.

    Args:
        path: the `.tflite`.
        inputs: one dict of arrays for each forward pass; with none, one pass over seeded noise.
        compute: `fp16` is the delegate's default, what a phone does; `fp32` forces float32.
        timeout_s: for everything together. A full B/16 takes 20 to 45 s a pass on lavapipe with 2 cores.
        cpu_outputs: the same inputs' outputs from a CPU backend, for `bit_equal`: a hint, and no more. That every op is
            on the GPU is what strict compilation says; exact arithmetic gives the same bits anywhere.
        signature: the key of the one to run; the first where None.

    Raises:
        InputError: `path` is no well-formed `.tflite`, or an input doesn't fit it.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise InputError(f"can't read {path}: no such file; give the path of a .tflite file")
    check_compute(compute)
    with tempfile.TemporaryDirectory(prefix="pecore-gpu-") as name:
        folder = Path(name)
        request = {"model": str(path), "compute": compute, "inputs": len(inputs), "signature": signature}
        (folder / "request.json").write_text(json.dumps(request))
        for i, arrays in enumerate(inputs):
            save_arrays(folder / f"input_{i}.npz", arrays)
        returncode = _run_child(folder, timeout_s)
        result_file = folder / "result.json"
        result: dict[str, Any] = json.loads(result_file.read_text()) if result_file.exists() else {"stage": "starting"}
        if "input_error" in result:
            raise InputError(result["input_error"])
        log = (folder / "native.log").read_text(errors="replace")
        run = classify_run(returncode, result, log, compute, timeout_s)
        if run.verdict is not Verdict.RAN:
            return run
        run = replace(run, outputs=tuple(load_arrays(folder / f"output_{i}.npz") for i in range(len(run.run_s))))
    suspicious = compute == "fp16" and cpu_outputs is not None and bit_equal(run.outputs, cpu_outputs)
    return replace(run, bit_equal=suspicious)


def classify_run(
    returncode: int | None, result: dict[str, Any], log: str, compute: Compute, timeout_s: float
) -> GpuRun:
    """Read the verdict off a child that is gone.

    Args:
        returncode: as of `subprocess`, negative for a signal; None for a child that had to be stopped.
        result: the child's `result.json`: `stage`, and of `drivers`, `ops`, `compile_s`, `run_s`, `refused` those that
            it got to.
        log: everything the child wrote to stdout and stderr.
    """
    stage, ops = result["stage"], result.get("ops")
    seen = GpuRun(
        verdict=Verdict.CRASHED,
        detail="",
        compute=compute,
        litert_version=importlib.metadata.version("ai-edge-litert"),
        adapter=parse_adapter(log, result.get("drivers", {})),
        ops=ops,
        compile_s=result.get("compile_s"),
        run_s=tuple(result.get("run_s", ())),
        log=shorten(log),
    )
    if stage == "done":
        if seen.adapter is None:
            return replace(seen, verdict=Verdict.NOT_ON_GPU, detail="the delegate never named the adapter it ran on")
        on_gpu = f"{ops} of {ops} ops on the GPU"
        return replace(seen, verdict=Verdict.RAN, ops_on_gpu=ops, detail=f"{on_gpu}: {seen.adapter.name}")
    if returncode is None:
        return replace(seen, verdict=Verdict.TIMED_OUT, detail=f"stopped after {timeout_s:g} s while {stage}")
    if GAVE_UP_WORDS in log:
        return replace(seen, verdict=Verdict.GAVE_UP, detail=f"{GAVE_UP_REMEDY} (while {stage})")
    if "failed" in result:
        return replace(seen, verdict=Verdict.FAILED, detail=f"it failed while {stage}: {result['failed']}")
    if "refused" in result:
        if seen.adapter is None:
            reason = _no_adapter_reason(log)
            return replace(seen, verdict=Verdict.NO_ADAPTER, detail=f"{reason}; {NO_ADAPTER_REMEDY}")
        refused, on_gpu_count = parse_refusals(log)
        names = ", ".join(sorted({refusal.op for refusal in refused}))
        detail = f"{on_gpu_count} of {ops} ops on the GPU; refused: {names}"
        if not refused:
            own = _own_words(log)
            detail = f"{result['refused']}; the delegate's own words: {own}" if own else result["refused"]
        return replace(seen, verdict=Verdict.REFUSED, refused=refused, ops_on_gpu=on_gpu_count, detail=detail)
    return replace(seen, signal=signal_name(returncode), detail=how_it_ended(returncode, stage, log))


_ADAPTER = re.compile(r"Selected adapter: (?P<name>.+), arch=.*, backend=.*, adapterType=(?P<kind>.+)")
_REFUSALS = re.compile(
    r"Following operations are not supported by GPU delegate:\n(?P<ops>.*?)"
    r"^(?P<on_gpu>No|\d+) operations will run on the GPU",
    re.DOTALL | re.MULTILINE,
)
_REFUSED_OP = re.compile(r"(?P<op>[\w.]+): (?P<reason>.+)")
_LOG_LINE = re.compile(r"(INFO|WARNING|Warning|ERROR|VERBOSE)\b|[IWEF]\d{4} ")


def parse_adapter(log: str, drivers: dict[str, str]) -> Adapter | None:
    """The adapter the delegate's log names, with its driver out of {device name: driver}; None if it names none."""
    match = _ADAPTER.search(log)
    if not match:
        return None
    name, kind = match["name"], match["kind"].strip()
    software = "software" in kind.lower() or re.search("llvmpipe|lavapipe|swiftshader", name, re.I) is not None
    return Adapter(name, kind, software, drivers.get(name))


def parse_refusals(log: str) -> tuple[tuple[RefusedOp, ...], int | None]:
    """What the delegate refused, each with its reason, and the number of ops it would have taken."""
    match = _REFUSALS.search(log)
    if not match:
        return (), None
    lines = [line for line in match["ops"].splitlines() if not _LOG_LINE.match(line)]
    refused = [RefusedOp(found["op"], found["reason"].strip()) for line in lines if (found := _REFUSED_OP.match(line))]
    return tuple(dict.fromkeys(refused)), 0 if match["on_gpu"] == "No" else int(match["on_gpu"])


def _own_words(log: str) -> str:
    """The first thing the delegate called an error, which the others follow from, without its place in the source;
    empty where there is none."""
    found = re.findall(r"^(?:ERROR: |E\d{4} .*?\] )(?:\[[^\]]*\] ?)?(?P<words>.+)$", log, re.MULTILINE)
    found = [words.strip() for words in found if not words.startswith("Following operations")]
    return found[0].rstrip(".") if found else ""


def _no_adapter_reason(log: str) -> str:
    """Dawn's own words on the last driver it tried and dropped."""
    start = log.find("Create WebGPU environment")
    warnings = re.findall(r"^Warning: (.+)$", log[max(start, 0) :], re.MULTILINE)
    return f"no Vulkan adapter that ML Drift accepts ({warnings[-1].rstrip('. ') if warnings else 'none was found'})"


def _run_child(folder: Path, timeout_s: float) -> int | None:
    """Run the child over a folder; its return code, or None when its time was up and it was killed."""
    runtime_dir = folder / "xdg"
    runtime_dir.mkdir(mode=0o700)
    # Vulkan drivers keep sockets there and complain, or fail, without it.
    environment = {"XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or str(runtime_dir)}
    command = [sys.executable, "-P", "-m", "pecore.validate.gpu_child", str(folder), str(os.getpid())]
    log = folder / "native.log"
    return run_child(command, (log, log), timeout_s, environment)


def bit_equal(outputs: Sequence[Arrays], cpu: Sequence[Arrays]) -> bool:
    """Whether outputs of a run in fp16 are the CPU's to the last bit although some float among them is no fp16 number,
    so that one run or the other must have rounded."""

    def as_bytes(all_arrays: Sequence[Arrays]) -> list[dict[str, bytes]]:
        return [{name: array.tobytes() for name, array in arrays.items()} for arrays in all_arrays]

    floats = [a for arrays in cpu for a in arrays.values() if a.dtype == np.float32]
    with np.errstate(over="ignore"):
        rounds = any(not np.array_equal(a, a.astype(np.float16).astype(a.dtype), equal_nan=True) for a in floats)
    return rounds and as_bytes(outputs) == as_bytes(cpu)


def one_op_model() -> bytes:
    """A `.tflite` with one LOGISTIC over float32 [1, 4]."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.SubGraphT()
    for name in ("x", "y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [1, 4], schema.TensorType.FLOAT32
        graph.tensors = [*(graph.tensors or []), tensor]
    op, code, model = schema.OperatorT(), schema.OperatorCodeT(), schema.ModelT()
    op.inputs, op.outputs = [0], [1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC
    graph.inputs, graph.outputs, graph.operators = [0], [1], [op]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(512)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


if __name__ == "__main__":
    found = probe()
    if found is None:
        sys.exit(f"no Vulkan adapter that ML Drift accepts; {NO_ADAPTER_REMEDY}")
    print(f"{found.name}, {found.kind}, driver {found.driver}")
