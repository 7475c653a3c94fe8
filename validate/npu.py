"""Compile a `.tflite` for a Qualcomm NPU and run what came out of it, on any x86-64 Linux machine without a phone.

LiteRT's wheel brings its Qualcomm plugin and the tool that applies it; the `npu` extra brings Qualcomm's QNN libraries
for x86-64, which compile for a chip (a *context*) and can execute a context in simulation. It is Qualcomm's own
compiler; the simulation computes in fp16 but models no chip: contexts for three chips gave the same bits (docs/npu.md).

Both run in child processes, bounded in time and memory: native code that meets what it doesn't know may crash or hang.
"""

import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pecore.errors import InputError
from pecore.runtime import Arrays, check_model_file
from pecore.validate.child import load_arrays, run_child, save_arrays
from pecore.validate.gpu import one_op_model
from pecore.validate.npu_verdict import Context, NpuBuild, NpuRun, Verdict, classify_build, classify_npu_run

LICENCE_VARIABLE = "PECORE_ACCEPT_QUALCOMM_LICENCE"
"""Set to 1, it accepts Qualcomm's licence as `--accept-qualcomm-licence` does."""

LEAST_GLIBC = (2, 35)  # of the libraries in onnxruntime-qnn 2.7.0
COMPILE_TIMEOUT_S = 900  # B/16 takes a few seconds
RUN_TIMEOUT_S = 1800  # for each image; B/16 takes some minutes on two cores


@dataclass(frozen=True)
class NpuOptions:
    """What to ask of the compiler: for which `chips` (`SM8850`); whether to `run` the first one's context; whether it
    is a failure where there is no compiler (`required`); whether Qualcomm's licence was `accepted`."""

    chips: tuple[str, ...]
    run: bool = False
    required: bool = False
    accepted: bool = False

    def __post_init__(self) -> None:
        wrong = [chip for chip in self.chips if not re.fullmatch("[A-Z]{2,4}[0-9]{3,5}[A-Z]{0,2}", chip)]
        if wrong or not self.chips:
            named = ", ".join(map(repr, wrong)) or "an empty list"
            raise InputError(f"{named}: no name of a Qualcomm chip; give some like SM8850, separated by commas")


def unavailable() -> str | None:
    """Why nothing can be compiled for Qualcomm's NPUs on this machine, with the remedy; None where it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"Qualcomm's compiler needs x86-64 Linux, and this is {machine} {system}: run it on such a machine"
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < LEAST_GLIBC:
        least = ".".join(map(str, LEAST_GLIBC))
        return f"QNN's libraries need glibc {least}, and this is {library or 'no glibc'} {version}: take a newer system"
    if qnn_folder() is None:
        return "Qualcomm's compiler is not installed: run `pip install 'pecore-litert[npu]'`"
    if not _tool().is_file():
        return "this build of ai-edge-litert has no apply_plugin_main: take its wheel for x86-64 Linux, 2.3"
    return None


def qnn_folder() -> Path | None:
    """The folder of QNN's libraries, which the wheel `onnxruntime-qnn` brings; None where it is not installed."""
    found = importlib.util.find_spec("onnxruntime_qnn")
    return Path(found.origin).parent if found and found.origin else None


def prepare(options: NpuOptions) -> str | None:
    """Try the compiler on a graph of one op for each chip, half a second each; why there is none here, or None.

    Raises:
        InputError: the licence isn't accepted, or the compiler doesn't know a chip.
    """
    why = unavailable()
    if why:
        return why
    if not options.accepted and os.environ.get(LICENCE_VARIABLE) != "1":
        raise InputError(
            f"--npu runs Qualcomm's QNN libraries, and using them is accepting their licence: read "
            f"{qnn_folder()}/Qualcomm_LICENSE.pdf, then add --accept-qualcomm-licence, or set {LICENCE_VARIABLE}=1"
        )
    with tempfile.TemporaryDirectory(prefix="pecore-npu-") as folder:
        model = Path(folder, "probe.tflite")
        model.write_bytes(one_op_model())
        for chip in options.chips:
            build = compile_for_npu(model, chip, Path(folder, "out.tflite"))
            if build.verdict is Verdict.UNKNOWN_CHIP:
                raise InputError(build.detail)
            if build.verdict is Verdict.UNAVAILABLE:
                return build.detail
    return None


def compile_for_npu(
    path: Path, chip: str, target: Path, timeout_s: float = COMPILE_TIMEOUT_S, memory: int | None = None
) -> NpuBuild:
    """Compile every signature of a `.tflite` for a chip, and write what LiteRT loads on a phone that has it to `target`
    (nothing is left there unless a context came out).

    Args:
        memory: bytes of address space that the compiler may take; as many as the machine has where None.

    Raises:
        InputError: `path` is no well-formed `.tflite`.
    """
    check_model_file(path)
    why, libraries = unavailable(), qnn_folder()
    if why or libraries is None:
        return NpuBuild(Verdict.UNAVAILABLE, str(why), chip)
    tool = _tool()
    with tempfile.TemporaryDirectory(prefix="pecore-npu-") as name:
        folder, made = Path(name), Path(name, "compiled.tflite")
        # LiteRT's plugin is linked to libQnnLpai.so, another back end, which the wheel leaves out; nothing of it is
        # called, so any library will satisfy the loader.
        (folder / "libQnnLpai.so").symlink_to(libraries / "libQnnSystem.so")
        before = os.environ.get("LD_LIBRARY_PATH")
        environment = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(libraries), name, before)))}
        command = [
            str(tool),
            "--cmd=apply",
            f"--model={path.resolve()}",
            f"--o={made}",
            "--soc_manufacturer=Qualcomm",
            f"--soc_model={chip}",
            f"--libs={tool.parents[1] / 'vendors/qualcomm/compiler'}",
            "--qualcomm_log_level=error",
        ]
        logs = (folder / "stdout.log", folder / "stderr.log")
        start = time.perf_counter()
        returncode = run_child(command, logs, timeout_s, environment, memory or _machines_memory())
        seconds = time.perf_counter() - start
        out, err = (log.read_text(errors="replace") for log in logs)
        context = read_context(made) if returncode == 0 and made.is_file() and made.stat().st_size else None
        build = replace(classify_build(returncode, out, err, chip, context, timeout_s), compile_s=seconds)
        if build.context_bytes:
            target.write_bytes(made.read_bytes())
    return build


def _machines_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _tool() -> Path:
    import ai_edge_litert

    return Path(ai_edge_litert.__path__[0], "tools", "apply_plugin_main")


def read_context(path: Path) -> Context:
    """What a `.tflite` that the tool wrote consists of."""
    from pecore.validate.npu_child import dispatches

    found, left = dispatches(path)
    return Context(len({piece.graph for piece in found}), len(found), left, sum(piece.size for piece in found))


def run_on_npu(compiled: Path, inputs: Sequence[Arrays], timeout_s: float | None = None) -> NpuRun:
    """Execute the context in a file that `compile_for_npu` wrote whole, in QNN's simulation on the CPU.

    Args:
        inputs: one dict of arrays for each forward pass, by the names of the file's first signature.
        timeout_s: for everything together; `RUN_TIMEOUT_S` for each input where None.
    """
    timeout_s = timeout_s or RUN_TIMEOUT_S * len(inputs)
    with tempfile.TemporaryDirectory(prefix="pecore-npu-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps({"model": str(compiled.resolve()), "inputs": len(inputs)}))
        for i, arrays in enumerate(inputs):
            save_arrays(folder / f"input_{i}.npz", arrays)
        log_file, result_file = folder / "native.log", folder / "result.json"
        command = [sys.executable, "-P", "-m", "pecore.validate.npu_child", str(folder)]
        returncode = run_child(command, (log_file, log_file), timeout_s, memory=_machines_memory())
        log = log_file.read_text(errors="replace")
        result: dict[str, Any] = json.loads(result_file.read_text()) if result_file.exists() else {"stage": "starting"}
        run = classify_npu_run(returncode, result, log, timeout_s)
        if run.verdict is not Verdict.RAN:
            return run
        return replace(run, outputs=tuple(load_arrays(folder / f"output_{i}.npz") for i in range(len(inputs))))
