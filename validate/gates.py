"""Gates 2 to 4: the graph against the rules, the file on the CPU against its reference, the file on the real delegate.

Gate 1 is in `exactness.py`, gate 5 in `headroom.py`: they need PyTorch, which this does not.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pecore.precision import COMPUTES, PRECISIONS, Compute
from pecore.runtime import Arrays, open_model
from pecore.validate import parity
from pecore.validate.checks import Check
from pecore.validate.gpu import NOT_JUDGED, GpuRun, Verdict, run_on_gpu
from pecore.validate.graph import macs, max_rank, op_counts, read_graph
from pecore.validate.rules import BLOCKING
from pecore.validate.rules import check as check_rules


def graph_gate(path: Path, runtime: str) -> Check:
    """Gate 2: what the rules for `runtime` refuse or distrust in the file."""
    graph = read_graph(path)
    findings = check_rules(graph, runtime)
    counts = op_counts(graph)
    figures = {
        "ops": sum(counts.values()),
        "ops_by_name": dict(counts.most_common()),
        "max_rank": max_rank(graph),
        "macs": macs(graph),
        "bytes": graph.size_bytes,
        "findings": [vars(f) for f in findings],
    }
    detail = f"{figures['ops']} ops, rank {figures['max_rank']}"
    blocking = [f for f in findings if f.verdict in BLOCKING]
    if blocking:
        detail = f"{len(blocking)} findings; first: {blocking[0].detail}"
    return Check("graph", path.name, f"rules for LiteRT {runtime}", "failed" if blocking else "passed", detail, figures)


def cpu_gate(
    path: Path, precision: str, inputs: Sequence[Arrays], reference: Sequence[Arrays]
) -> tuple[Check, list[Arrays]]:
    """Gate 3: the file on LiteRT's CPU runtime against the reference; also its outputs, which the GPU gate wants.

    Args:
        precision: of the file's weights.
        inputs, reference: one dict of arrays by input name, and one by output name, for each sample.
    """
    model = open_model(path, backend="cpu")
    outputs = [model.run(arrays) for arrays in inputs]
    figures, thresholds, unit = compare_outputs("cpu", precision, inputs, reference, outputs)
    difference = (
        f"max |diff| {figures['max_abs_diff']:.1e}" if unit else f"relative |diff| {figures['relative_diff']:.1e}"
    )
    detail = f"cosine {figures['cosine']:.7f}, {difference}"
    check = Check("cpu", path.name, f"LiteRT CPU {version('ai-edge-litert')}", "passed", detail)
    return check.measured(figures, thresholds), outputs


def gpu_gate(
    path: Path,
    precision: str,
    compute: Compute,
    inputs: Sequence[Arrays],
    cpu_outputs: Sequence[Arrays],
    *,
    required: bool = False,
    timeout_s: float = 900,
) -> Check:
    """Gate 4: the file on the real ML Drift delegate, strict, computing in `compute`.

    Skipped where there is no adapter, unless `required`. `inputs` and `cpu_outputs` as `cpu_gate` takes and gives them.
    """
    run = run_on_gpu(path, inputs, compute, timeout_s, cpu_outputs)
    figures: dict[str, Any] = run_figures(run)
    backend = f"ML Drift {compute}" + (f" on {run.adapter.name}" if run.adapter else "")
    if run.verdict is Verdict.NO_ADAPTER:
        return Check("gpu", path.name, backend, "failed" if required else "skipped", run.detail, figures)
    if run.verdict in NOT_JUDGED:  # a failed run, not a failed model
        return Check("gpu", path.name, backend, "failed" if required else "skipped", run.detail, figures)
    if run.verdict is not Verdict.RAN:
        return Check("gpu", path.name, backend, "failed", run.detail, figures)
    compared, thresholds, _ = compare_outputs(f"gpu {compute}", precision, inputs, cpu_outputs, run.outputs)
    figures |= compared
    shown = f"correlation {figures['correlation']:.7f}, |norm - 1| {figures['norm_error']:.0e}"
    detail = f"{run.ops_on_gpu} of {run.ops} ops on ML Drift, {shown}"
    return Check("gpu", path.name, backend, "passed", detail).measured(figures, thresholds)


def gpu_gates(
    path: Path,
    precision: str,
    inputs: Sequence[Arrays],
    cpu_outputs: Sequence[Arrays],
    gpu: str,
    log: Callable[[str], None],
) -> list[Check]:
    """Gate 4 in each precision that the delegate computes in; `gpu` is `auto`, `require` or `skip`."""
    if gpu == "skip":
        return [Check("gpu", path.name, "ML Drift", "skipped", "left out on request")]
    checks: list[Check] = []
    for compute in COMPUTES:
        log(f"running {path.name} on ML Drift in {compute} (a minute or two on a software driver)")
        checks.append(gpu_gate(path, precision, compute, inputs, cpu_outputs, required=gpu == "require"))
        if checks[-1].figures["verdict"] != Verdict.RAN:  # the other precision would tell nothing new
            break
    return checks


def run_figures(run: GpuRun) -> dict[str, Any]:
    """What a report keeps of a run on the delegate."""
    return {
        "verdict": run.verdict.value,
        "ops": run.ops,
        "ops_on_gpu": run.ops_on_gpu,
        "adapter": vars(run.adapter) if run.adapter else None,
        "refused": [vars(r) for r in run.refused],
        "compile_s": run.compile_s,
        "run_s": list(run.run_s),
        "signal": run.signal,
        "litert_version": run.litert_version,
        "log": run.log,
    }


def compare_outputs(
    kind: str, precision: str, inputs: Sequence[Arrays], reference: Sequence[Arrays], actual: Sequence[Arrays]
) -> tuple[dict[str, Any], dict[str, float], bool]:
    """The worst figures over samples, and their thresholds, those of a second output under `<its name>.<figure>`; and
    whether the first output is a unit vector."""
    figures: dict[str, Any] = {"samples": len(reference)}
    thresholds: dict[str, float] = {}
    units = []
    for i, name in enumerate(reference[0]):
        expected, got = [], []
        for given, there, here in zip(inputs, reference, actual, strict=True):
            apart = is_batch(given, there[name])
            expected += list(there[name]) if apart else [there[name]]
            got += list(here[name]) if apart else [here[name]]
        prefix = "" if i == 0 else f"{name}."
        units.append(all(is_unit(array) for array in expected))
        found = PRECISIONS[precision].thresholds(kind, units[-1])
        figures |= {prefix + figure: value for figure, value in parity.compare(expected, got).as_dict().items()}
        thresholds |= {prefix + figure: value for figure, value in found.items()}
    return figures, thresholds, units[0]


def is_batch(inputs: Arrays, output: np.ndarray) -> bool:
    """Whether the first axis counts images, of which each is to be judged by itself."""
    first = {array.shape[0] if array.ndim else 1 for array in (*inputs.values(), output)}
    return len(first) == 1 and first != {1}


def is_unit(array: np.ndarray) -> bool:
    """Whether the array is an L2-normalised embedding, for which an absolute difference has a meaning."""
    return abs(float(np.linalg.norm(array.astype(np.float64))) - 1) < 1e-3
