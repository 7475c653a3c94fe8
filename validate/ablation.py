"""Take one rewrite out, put what it replaces back, and see what breaks.

Each row is a tower that computes what timm's computes, with one form of it changed (`originals.ROWS`). It is converted,
held against the rules and compiled by the real delegate; where that accepts every op, the tower runs at several
amplitudes of the residual stream, which change the weights and not the function's form. What the delegate computes, in
its default fp16, is compared with what LiteRT's CPU runtime makes of the same file, so that what differs is the
delegate's arithmetic and not the rounding of the weights; the CPU's answer is compared with PyTorch's.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pecore.errors import InputError
from pecore.files import json_ready
from pecore.precision import PRECISIONS
from pecore.rewrites.tower import Scales
from pecore.runtime import open_model
from pecore.validate.ablation_variants import ROWS, AblationRow, TimmTower, ablated
from pecore.validate.gpu import GpuRun, Verdict, probe, run_on_gpu
from pecore.validate.graph import read_graph
from pecore.validate.headroom import fit_scales
from pecore.validate.parity import Parity, compare
from pecore.validate.rules import BLOCKING, Finding
from pecore.validate.rules import check as check_rules

RIGHT = PRECISIONS["fp16"].thresholds("gpu fp16")["correlation"]
"""The GPU gate's threshold: a row below it would not have been shipped."""

SAME = 2e-3
"""Two unit-norm embeddings whose elements differ by less are one embedding and fp16's rounding."""

Build = Callable[[float], Any]
"""Amplitude of the residual stream -> timm's tower with weights of that amplitude."""

Export = Callable[[nn.Module, Tensor, Path], None]
"""(tower, example image, path): writes the `.tflite` with input `image` and output `embedding`."""


@dataclass(frozen=True)
class Point:
    """A row at one amplitude.

    exact: max |diff| to timm, both in float64. ops: in the file. cpu: the file on LiteRT's CPU runtime against timm in
    fp32. run, gpu: on the delegate, against the CPU; None without an adapter, `gpu` also where it did not run.
    collapsed: on the delegate different photographs got the same embedding, on the CPU they did not.
    """

    amplitude: float
    exact: float
    ops: int
    findings: Sequence[Finding]
    cpu: Parity
    run: GpuRun | None
    gpu: Parity | None
    collapsed: bool

    def as_dict(self) -> dict[str, Any]:
        figures = {} if self.gpu is None else json_ready(self.gpu.as_dict())
        return {
            "amplitude": self.amplitude,
            "ops": self.ops,
            "exact": self.exact,
            "cpu_correlation": self.cpu.correlation,
            "verdict": None if self.run is None else self.run.verdict.value,
            **figures,
            "collapsed": self.collapsed,
        }


@dataclass(frozen=True)
class RowResult:
    """A row and what came of it, one point an amplitude (only the first where the delegate did not run it)."""

    row: AblationRow
    points: Sequence[Point]

    def as_dict(self) -> dict[str, Any]:
        first = self.points[0]
        findings = Counter((f.rule, f.verdict) for f in first.findings if f.verdict in BLOCKING)
        return {
            "name": self.row.name,
            "out": self.row.out,
            "ops": first.ops,
            "ops_on_gpu": first.run.ops_on_gpu if first.run else None,
            "verdict": first.run.verdict.value if first.run else None,
            "refused": [vars(r) for r in first.run.refused] if first.run else [],
            "findings": [{"rule": rule, "verdict": v, "ops": n} for (rule, v), n in findings.items()],
            "points": [p.as_dict() for p in self.points],
        }


def choose_rows(names: Sequence[str]) -> list[AblationRow]:
    """The rows called `names`, in the table's order, after the whole rewritten tower; all of them where there are no
    names. Raises InputError for an unknown one."""
    known = [row.name for row in ROWS]
    if unknown := [n for n in names if n not in known]:
        raise InputError(f"no rewrite is called {', '.join(unknown)}; choose from {', '.join(known)}")
    return [row for row in ROWS if not names or row.name in names or row is ROWS[0]]


def ablate(
    build: Build,
    export: Export,
    images: Sequence[Tensor],
    amplitudes: Sequence[float],
    rows: Sequence[AblationRow] = ROWS,
    *,
    compared: int = 2,
    log: Callable[[str], None] = print,
) -> list[RowResult]:
    """Measure `rows` at `amplitudes`; on the delegate where there is an adapter.

    Args:
        images: each `[1, 3, H, W]` in [-1, 1]; the scales are fitted on all, the outputs compared on the first
            `compared`.
        log: told, in a few words, each time the work enters a new stage.
    """
    on_gpu = probe() is not None
    points: dict[str, list[Point]] = {row.name: [] for row in rows}
    with TemporaryDirectory(prefix="pecore-ablate-") as folder:
        for amplitude in amplitudes:
            log(f"choosing scales for amplitude {amplitude:g}")
            model = build(amplitude)
            scales, _ = fit_scales(model, images)
            wanted = [row for row in rows if all(_ran(p) for p in points[row.name])]
            for i, row in enumerate(wanted, start=1):
                log(f"amplitude {amplitude:g}, tower {i} of {len(wanted)}: {row.name}")
                path = Path(folder, "tower.tflite")
                points[row.name].append(
                    _measure(row, model, scales, amplitude, export, images[:compared], path, on_gpu)
                )
    return [RowResult(row, points[row.name]) for row in rows]


def _ran(point: Point) -> bool:
    return point.run is not None and point.run.verdict is Verdict.RAN


@torch.no_grad()
def _measure(
    row: AblationRow,
    model: Any,
    scales: Scales,
    amplitude: float,
    export: Export,
    images: Sequence[Tensor],
    path: Path,
    on_gpu: bool,
) -> Point:
    double = ablated(row, model, scales, torch.float64), TimmTower(model, torch.float64)
    ours, theirs = (tower(images[0].double()) for tower in double)
    export(ablated(row, model, scales), images[0], path)
    graph = read_graph(path)
    inputs = [{"image": image.numpy()} for image in images]
    on_cpu = open_model(path, backend="cpu")
    cpu = [on_cpu.run(arrays) for arrays in inputs]
    run = run_on_gpu(path, inputs, "fp16", cpu_outputs=cpu) if on_gpu else None
    expected = [arrays["embedding"] for arrays in cpu]
    actual = [arrays["embedding"] for arrays in run.outputs] if run else []
    return Point(
        amplitude,
        float((ours - theirs).abs().max()),
        len(graph.ops),
        check_rules(graph),
        compare([F.normalize(model(image), dim=-1).numpy() for image in images], expected),
        run,
        compare(expected, actual) if actual else None,
        bool(actual) and _spread(actual) < SAME <= _spread(expected),
    )


def _spread(embeddings: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(e - embeddings[0]).max()) for e in embeddings)


def passed(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the whole rewritten tower, the first of the rows (as dicts), is accepted and right at every amplitude; by
    the rules alone where there was no adapter."""
    whole = rows[0]
    points = whole["points"]
    ran = whole["verdict"] is None or all((p.get("correlation") or 0.0) >= RIGHT for p in points)
    return ran and not whole["findings"]


def cells(row: Mapping[str, Any], amplitudes: Sequence[float]) -> list[str]:
    """A row of the table: what is out, ops, on the GPU, the delegate's first refusal in its own words, the rules'
    findings, the correlation at each amplitude, the largest error of the norm."""
    refused = row["refused"][0] if row["refused"] else None
    why = f"{refused['op']}: {refused['reason'].split('. ')[0].rstrip('.')}" if refused else ""
    if row["verdict"] not in (None, Verdict.RAN, Verdict.REFUSED):
        why = row["verdict"]
    on_gpu = "" if row["ops_on_gpu"] is None else f"{row['ops_on_gpu']} of {row['ops']}"
    rules = ", ".join(f"{f['rule']} ({f['verdict']}, {f['ops']})" for f in row["findings"])
    at = {p["amplitude"]: _correlation(p) for p in row["points"]}
    errors = [p["norm_error"] for p in row["points"] if p.get("norm_error") is not None]
    return [
        row["out"],
        str(row["ops"]),
        on_gpu,
        why,
        rules,
        *(at.get(a, "") for a in amplitudes),
        f"{max(errors):.0e}" if errors else "",
    ]


def headings(amplitudes: Sequence[float]) -> list[str]:
    """The columns of `cells`."""
    first = ["taken out", "ops", "on the GPU", "first refusal", "rules"]
    return [*first, *(f"{a:g}" for a in amplitudes), "norm error"]


def _correlation(point: Mapping[str, Any]) -> str:
    if point["verdict"] != Verdict.RAN:
        return ""
    if point["correlation"] is None:
        return "NaN"
    return f"{point['correlation']:.5f}" + (" †" if point["collapsed"] else "")


def markdown(content: Mapping[str, Any]) -> str:
    """The table, and under it how it was made; `content` as `ablation.json` has it."""
    amplitudes = content["amplitudes"]
    head = headings(amplitudes)
    lines = [head, ["---"] * len(head), *(cells(row, amplitudes) for row in content["rows"])]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{about(content)}\n"


def about(content: Mapping[str, Any]) -> str:
    """How the figures were made, in one paragraph."""
    adapter, points = content["adapter"], [p for row in content["rows"] for p in row["points"]]
    where = f"{adapter['name']} ({adapter['kind']}; driver {adapter['driver']})" if adapter else "no adapter: not run"
    exact, on_cpu = max(p["exact"] for p in points), 1 - min(p["cpu_correlation"] for p in points)
    notes = [
        f"`{content['command']}`: {content['variant']}, the first {content['depth']} of its {content['of']} blocks at"
        f" {content['image_size']} px, {content['weights']}, fp16 weights, photographs {', '.join(content['images'])}.",
        f"ML Drift of LiteRT {content['versions']['ai-edge-litert']} in fp16 on {where}.",
        "Columns with a number: correlation with the same file on LiteRT's CPU runtime, the lower of the photographs,"
        " by the largest activation in the residual stream; the ops are those of the first.",
        f"In float64 every tower's embedding is within {exact:.0e} of timm's; on the CPU every file's correlation with"
        f" PyTorch is within {on_cpu:.0e} of 1.",
    ]
    if any(p["collapsed"] for p in points):
        notes.append("† the same embedding whatever the photograph.")
    return " ".join(notes)
