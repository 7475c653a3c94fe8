"""Gates 2 to 4: the graph against the rules, the file on the CPU against its reference, the file on the real delegate.

Gate 1 is in `exactness.py`, gate 5 in `headroom.py`: they need PyTorch, which this does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pecore.precision import COMPUTES, PRECISIONS, Compute
from pecore.runtime import Arrays, TensorSpec, open_model
from pecore.validate.checks import Check
from pecore.validate.gpu import NOT_JUDGED, GpuRun, Verdict, run_on_gpu
from pecore.validate.graph import macs, max_rank, op_counts, read_graphs
from pecore.validate.outputs import compare_outputs
from pecore.validate.rules import BLOCKING, check_graphs

GPU_TIMEOUT_S = 900


def graph_gate(path: Path, runtime: str) -> Check:
    """Gate 2: what the rules for `runtime` refuse or distrust in the file, in every signature."""
    graphs = read_graphs(path)
    findings = check_graphs(graphs, runtime)
    counts = op_counts(*graphs)
    figures = {
        "ops": sum(counts.values()),
        "ops_by_name": dict(counts.most_common()),
        "max_rank": max_rank(*graphs),
        "macs": macs(*graphs),
        "bytes": graphs[0].size_bytes,
        "findings": [vars(f) for f in findings],
    }
    detail = f"{figures['ops']} ops, rank {figures['max_rank']}"
    if len(graphs) > 1:
        detail += f", in {len(graphs)} signatures"
    blocking = [f for f in findings if f.verdict in BLOCKING]
    if blocking:
        detail = f"{len(blocking)} findings; first: {blocking[0].detail}"
    return Check("graph", path.name, f"rules for LiteRT {runtime}", "failed" if blocking else "passed", detail, figures)


def cpu_backend() -> str:
    """What gate 3 runs on, with its version."""
    return f"LiteRT CPU {version('ai-edge-litert')}"


def subject(path: Path, signature: str | None) -> str:
    """What a check calls a file, or one signature of a file that has several."""
    return path.name if signature is None else f"{path.name}:{signature}"


def cpu_gate(
    path: Path,
    precision: str,
    inputs: Sequence[Arrays],
    reference: Sequence[Arrays],
    *,
    signature: str | None = None,
) -> tuple[Check, list[Arrays]]:
    """Gate 3: the file on LiteRT's CPU runtime against the reference; also its outputs, which the GPU gate wants.

    Args:
        precision: of the file's weights.
        inputs, reference: one dict of arrays by input name, and one by output name, for each sample.
        signature: which one of a file that has several.

    Raises:
        CannotRunError: the runtime can't load the file, or fails when it runs it.
    """
    model = open_model(path, backend="cpu", signature=signature)
    outputs = [model.run(arrays) for arrays in inputs]
    compared = compare_outputs("cpu", precision, inputs, reference, outputs, getattr(model, "outputs", None))
    check = Check("cpu", subject(path, signature), cpu_backend(), "passed", compared.told)
    return check.measured(compared.figures, compared.thresholds), outputs


def gpu_gate(
    path: Path,
    precision: str,
    compute: Compute,
    inputs: Sequence[Arrays],
    cpu_outputs: Sequence[Arrays],
    *,
    required: bool = False,
    signature: str | None = None,
) -> Check:
    """Gate 4: the file on the real ML Drift delegate, strict, computing in `compute`.

    Skipped where there is no adapter, unless `required`. `inputs` and `cpu_outputs` as `cpu_gate` takes and gives them.
    """
    run = run_on_gpu(path, inputs, compute, GPU_TIMEOUT_S, cpu_outputs, signature)
    figures: dict[str, Any] = run_figures(run)
    backend = f"ML Drift {compute}" + (f" on {run.adapter.name}" if run.adapter else "")
    check = Check("gpu", subject(path, signature), backend, "failed", run.detail, figures)
    if run.verdict is Verdict.NO_ADAPTER or run.verdict in NOT_JUDGED:  # a failed run, not a failed model
        return check if required else replace(check, outcome="skipped")
    if run.verdict is not Verdict.RAN:
        return check
    specs = quantized_outputs(path, signature)
    compared = compare_outputs(f"gpu {compute}", precision, inputs, cpu_outputs, run.outputs, specs)
    detail = f"{run.ops_on_gpu} of {run.ops} ops on ML Drift, {compared.told}"
    if run.bit_equal:
        detail += "; a hint: these are the CPU's outputs to the last bit, and fp16 rounds"
    check = replace(check, outcome="passed", detail=detail)
    return check.measured(figures | dict(compared.figures), compared.thresholds)


def quantized_outputs(path: Path, signature: str | None) -> dict[str, TensorSpec]:
    """Outputs that are integers standing for real values, by name; the GPU's runtime does not tell their scale."""
    graphs = read_graphs(path)
    named = next((s for s in graphs[0].signatures if signature in (None, s.key)), None)
    tensors = named.outputs if named else {tensor.name: tensor for tensor in graphs[0].outputs}
    return {
        name: TensorSpec(t.shape, np.dtype(t.dtype), scale=t.scale, zero_point=t.zero_point)
        for name, t in tensors.items()
        if t.scale is not None and t.dtype in ("int8", "uint8", "int16")
    }


def gpu_gates(
    path: Path,
    precision: str,
    inputs: Sequence[Arrays],
    cpu_outputs: Sequence[Arrays],
    gpu: str,
    log: Callable[[str], None],
    signature: str | None = None,
) -> list[Check]:
    """Gate 4 in each precision that the delegate computes in; `gpu` is `auto`, `require` or `skip`."""
    if gpu == "skip":
        return [Check("gpu", subject(path, signature), "ML Drift", "skipped", "left out on request")]
    if PRECISIONS[precision].integer:
        why = "made for NPUs: no GPU takes activations of integers"
        return [Check("gpu", subject(path, signature), "ML Drift", "skipped", why)]
    checks: list[Check] = []
    for compute in COMPUTES:
        log(f"running {subject(path, signature)} on ML Drift in {compute} (a minute or two on a software driver)")
        required = gpu == "require"
        checks.append(gpu_gate(path, precision, compute, inputs, cpu_outputs, required=required, signature=signature))
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
        "bit_equal": run.bit_equal,
        "signal": run.signal,
        "litert_version": run.litert_version,
        "log": run.log,
    }
