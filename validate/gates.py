"""The gates: each looks at one thing and returns `Check`s, a figure beside its threshold and a verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pecore.runtime import Precision, open_model
from validate import exactness, headroom, parity
from validate.gpu import GpuRun, Verdict, run_on_gpu
from validate.graph import macs, max_rank, op_counts, read_graph
from validate.rules import BLOCKING
from validate.rules import check as check_rules

Arrays = dict[str, np.ndarray]
Outcome = Literal["passed", "failed", "skipped"]

THRESHOLDS: Mapping[tuple[str, str], Mapping[str, float]] = {
    # (gate and precision it computes in, weights' precision): figure -> worst value that passes, of an output that is
    # L2-normalised. What differs for others is in FEATURES.
    ("cpu", "fp32"): {"cosine": 1 - 1e-9, "norm_error": 1e-5, "max_abs_diff": 2e-6},
    ("cpu", "fp16"): {"cosine": 0.99999, "norm_error": 1e-5},
    ("cpu", "int8"): {"cosine": 0.999, "norm_error": 1e-5},
    ("gpu fp32", "fp32"): {"correlation": 0.9999999, "norm_error": 1e-5},
    ("gpu fp32", "fp16"): {"correlation": 0.9999999, "norm_error": 1e-5},
    ("gpu fp32", "int8"): {"correlation": 0.999, "norm_error": 1e-5},
    ("gpu fp16", "fp32"): {"correlation": 0.9999, "norm_error": 2e-3},
    ("gpu fp16", "fp16"): {"correlation": 0.9999, "norm_error": 2e-3},
    ("gpu fp16", "int8"): {"correlation": 0.999, "norm_error": 2e-3},
}
"""The CPU gate's reference is PyTorch fp32; the GPU gate's is the same file on the CPU, so that weight rounding is
judged once."""

FEATURES: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("cpu", "fp32"): {"cosine": 1 - 1e-9, "norm_error": 1e-5, "relative_diff": 5e-5},
    ("cpu", "fp16"): {"cosine": 0.99999, "norm_error": 1e-3},
    ("cpu", "int8"): {"cosine": 0.999, "norm_error": 5e-3},
}
"""In place of `THRESHOLDS` for outputs that are no unit vectors (features, logits): they are as large as the residual
stream, and their norm is not made 1 at the end but rounded with the weights."""

GPU_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
"""What the GPU gate computes in: the delegate's default, then fp32, which tells rounding from a wrong graph."""

AT_LEAST = frozenset({"cosine", "correlation", "headroom"})


@dataclass(frozen=True)
class Check:
    """One gate's verdict on one subject.

    gate: `exact`, `graph`, `cpu`, `gpu`, `headroom`. subject: a file's name, or `tower` for what is judged in PyTorch.
    backend: what ran it, with its version. figures and thresholds: by the same names where a threshold applies. detail:
    one sentence for people.
    """

    gate: str
    subject: str
    backend: str
    outcome: Outcome
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return _jsonable(vars(self))


def beyond(figures: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[str]:
    """The figures that miss their threshold, NaN included, each as `name value (must be ...)`."""
    missed = []
    for name, limit in thresholds.items():
        value = figures[name]
        at_least = name.rpartition(".")[2] in AT_LEAST
        good = value >= limit if at_least else value <= limit
        if not good:
            missed.append(f"{name} {value:.7g} (must be {'>=' if at_least else '<='} {limit:.7g})")
    return missed


def exact_gate(difference: float, subject: str = "tower") -> Check:
    """Gate 1, from `exactness.max_difference`."""
    return _measured(
        "exact",
        subject,
        "PyTorch float64",
        {"max_abs_diff": difference},
        {"max_abs_diff": exactness.LARGEST_DIFFERENCE},
        f"max |diff| {difference:.1e} to timm",
    )


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
    figures, thresholds, unit = _judged("cpu", precision, inputs, reference, outputs)
    difference = (
        f"max |diff| {figures['max_abs_diff']:.1e}" if unit else f"relative |diff| {figures['relative_diff']:.1e}"
    )
    detail = f"cosine {figures['cosine']:.7f}, {difference}"
    return _measured("cpu", path.name, f"LiteRT CPU {version('ai-edge-litert')}", figures, thresholds, detail), outputs


def gpu_gate(
    path: Path,
    precision: str,
    compute: Precision,
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
    if run.verdict is not Verdict.RAN:
        return Check("gpu", path.name, backend, "failed", run.detail, figures)
    compared, thresholds, _ = _judged(f"gpu {compute}", precision, inputs, cpu_outputs, run.outputs)
    figures |= compared
    shown = f"correlation {figures['correlation']:.7f}, |norm - 1| {figures['norm_error']:.0e}"
    detail = f"{run.ops_on_gpu} of {run.ops} ops on ML Drift, {shown}"
    return _measured("gpu", path.name, backend, figures, thresholds, detail)


def gpu_gates(
    path: Path,
    precision: str,
    inputs: Sequence[Arrays],
    cpu_outputs: Sequence[Arrays],
    gpu: str,
    stage: Callable[[str], None],
) -> list[Check]:
    """Gate 4 in each precision that the delegate computes in; `gpu` is `auto`, `require` or `skip`."""
    if gpu == "skip":
        return [Check("gpu", path.name, "ML Drift", "skipped", "left out on request")]
    checks: list[Check] = []
    for compute in GPU_PRECISIONS:
        stage(f"running {path.name} on ML Drift in {compute} (a minute or two on a software driver)")
        checks.append(gpu_gate(path, precision, compute, inputs, cpu_outputs, required=gpu == "require"))
        if checks[-1].figures["verdict"] != Verdict.RAN:  # the other precision would tell nothing new
            break
    return checks


def headroom_gate(reductions: Sequence[headroom.Reduction]) -> Check:
    """Gate 5: every reduction keeps its distance from fp16's maximum."""
    tightest = headroom.least(reductions)
    figures = {
        "headroom": tightest.headroom,
        "reduction": tightest.name,
        "reductions": [r.as_dict() for r in reductions],
    }
    detail = f"least headroom {tightest.headroom:.3g}x ({tightest.name})"
    return _measured("headroom", "tower", "PyTorch fp32", figures, {"headroom": headroom.ENOUGH}, detail)


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


def limits(kind: str, precision: str, unit: bool = True) -> Mapping[str, float]:
    """The thresholds of a kind of run (`cpu`, `gpu fp16`, `gpu fp32`) for a file with weights in `precision` and an
    output that is a unit vector, or is not."""
    return THRESHOLDS[kind, precision] if unit else FEATURES.get((kind, precision), THRESHOLDS[kind, precision])


def _judged(
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
        found = limits(kind, precision, units[-1])
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


def _measured(
    gate: str, subject: str, backend: str, figures: Mapping[str, Any], thresholds: Mapping[str, float], detail: str
) -> Check:
    missed = beyond(figures, thresholds)
    return Check(
        gate,
        subject,
        backend,
        "failed" if missed else "passed",
        "; ".join(missed) if missed else detail,
        figures,
        thresholds,
    )


def _jsonable(value: Any) -> Any:
    """NaN and inf have no JSON: null, and the string `inf`."""
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value
