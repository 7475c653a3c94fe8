"""Where a graph goes wrong: expose its inner tensors, run it on several backends, find the first that differs.

The `.tflite` itself is changed, so this works for any graph and needs no weights: each tensor looked at becomes an
output of a copy of the file. First the last tensor of each part (a block of a tower), then, inside the first part that
differs, every tensor. Parts and steps are read from the tensors' names, in which litert-torch keeps the path of torch
modules (`rewrites.tower.Block_3/rewrites.norm.ScaledLayerNorm_norm1;2`) and TensorFlow its scopes; where names tell
nothing, runs of consecutive ops take their place.

The CPU (LiteRT, which computes in float32) is held against a reference where there is one, PyTorch or another file;
the GPU against the CPU on the same file.
"""

import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pecore.errors import GateError, InputError
from pecore.precision import PRECISIONS, Compute
from pecore.runtime import Arrays, open_model
from pecore.validate.expose_tensors import expose
from pecore.validate.gpu import Verdict, run_on_gpu
from pecore.validate.graph import Graph, Op, Tensor, read_graph, weights_precision

Runner = Callable[[Path, Arrays], Arrays]
"""Runs a file on inputs by name; outputs by name. Raises InputError where there is no such backend, GateError where it
can't run the file."""

Values = dict[int, np.ndarray]
"""Arrays by tensor index."""


@dataclass(frozen=True)
class Step:
    """One op that computes something from the inputs.

    part: the block or other part of the network it belongs to ("Block 3"). name: its place in there ("attn.qkv").
    path: the names of the torch modules (or scopes) that lead to it. last: that module ends with it.
    """

    op: Op
    part: str
    name: str
    path: tuple[str, ...]
    last: bool

    @property
    def tensor(self) -> Tensor:
        return self.op.outputs[0]


Reference = Callable[[Sequence[Step]], Values]
"""What the tensors of some steps should be, as far as it knows."""


@dataclass(frozen=True)
class Error:
    """A tensor against its reference.

    nonfinite: elements that are inf or NaN and should not be. correlation: Pearson. relative: norm of the difference
    over the norm of the reference. channel: the same for each channel (last axis), the median of them: where a few
    channels are a thousand times the others, `relative` and `correlation` see nothing else. NaN where there is no
    figure.
    """

    nonfinite: int
    correlation: float
    relative: float
    channel: float

    @property
    def size(self) -> float:
        """The larger of the two relative figures; inf where an element is not finite."""
        return math.inf if self.nonfinite else max(self.relative, self.channel)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "size": self.size}


@dataclass(frozen=True)
class StepErrors:
    """A step and its errors, by column; `largest` is the largest |element| on the CPU."""

    step: Step
    largest: float
    errors: Mapping[str, Error]

    def as_dict(self) -> dict[str, Any]:
        where = {"part": self.step.part, "step": self.step.name, "op": self.step.op.name, "index": self.step.op.index}
        errors = {column: error.as_dict() for column, error in self.errors.items()}
        return where | {"largest": self.largest, "errors": errors}


@dataclass(frozen=True)
class Localization:
    """Where a file goes wrong.

    columns: what was compared with what. parts: one row for each part, its last tensor. inside: a row for each step of
    the parts that are the first wrong ones. first: column -> the first wrong row, as deep as it is known, or None.
    skipped: backends that are not to be had here, and why. broken: those that could not run the file, and why.
    """

    columns: Mapping[str, str]
    threshold: float
    parts: Sequence[StepErrors]
    inside: Sequence[StepErrors]
    first: Mapping[str, StepErrors | None]
    skipped: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.broken and all(row is None for row in self.first.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "columns": dict(self.columns),
            "threshold": self.threshold,
            "first": {column: row and row.as_dict() for column, row in self.first.items()},
            "skipped": dict(self.skipped),
            "broken": dict(self.broken),
            "parts": [row.as_dict() for row in self.parts],
            "inside": [row.as_dict() for row in self.inside],
        }


def localize(
    path: Path,
    inputs: Arrays,
    runners: Mapping[str, Runner],
    reference: tuple[str, Reference] | None = None,
    threshold: float | None = None,
    log: Callable[[str], None] = print,
) -> Localization:
    """Find the first step of a `.tflite` that differs from what it should be.

    Args:
        inputs: arrays by the graph's input names.
        runners: backends to hold against the CPU, by name (`gpu_runner`).
        reference: a name for people, and what the CPU is to be held against.
        threshold: `Error.size` from which a step is wrong; by the weights' precision where None.
        log: told each time the work enters a new stage.

    Raises:
        InputError: the file can't be read, changed or run, or nothing is left to compare it with.
    """
    graph = read_graph(path)
    threshold = PRECISIONS[weights_precision(graph)].localize if threshold is None else threshold
    everything = steps(graph)
    if not everything:
        raise InputError(f"{path} computes no float32 tensor of a fixed shape; there is nothing to look into")
    columns = {"cpu": f"LiteRT CPU against {reference[0]}"} if reference else {}
    columns |= {name: f"{name} against LiteRT CPU" for name in runners}
    skipped: dict[str, str] = {}
    broken: dict[str, str] = {}

    def measure(some: Sequence[Step], what: str) -> list[StepErrors]:
        with tempfile.TemporaryDirectory(prefix="pecore-localize-") as folder:
            copy = Path(folder, "exposed.tflite")
            names = expose(graph, [step.tensor for step in some], copy)
            log(f"running {what} on the CPU")
            cpu = _values(cpu_runner(copy, inputs), names)
            compared = {"cpu": (reference[1](some), cpu)} if reference else {}
            for name in [n for n in runners if n not in skipped | broken]:
                log(f"running {what} on {name}")
                try:
                    compared[name] = cpu, _values(runners[name](copy, inputs), names)
                except InputError as error:
                    skipped[name] = str(error)
                except GateError as error:
                    broken[name] = str(error)
        rows = []
        for step in some:
            i = step.tensor.index
            errors = {c: compare(should[i], got[i]) for c, (should, got) in compared.items() if i in should}
            rows.append(StepErrors(step, float(np.abs(cpu[i]).max()), errors))
        return rows

    by_part = {part: list(group) for part, group in groupby(everything, key=lambda step: step.part)}
    parts = measure([group[-1] for group in by_part.values()], f"{len(by_part)} parts of {path.name}")
    if len(skipped) == len(columns):
        why = "; ".join(dict.fromkeys(skipped.values())) or "no GPU and no reference"
        raise InputError(f"there is nothing to compare {path.name} with ({why}): give --against FILE.tflite")
    columns = {name: what for name, what in columns.items() if name not in skipped | broken}
    first = {column: _first(parts, column, threshold) for column in columns}
    inside: list[StepErrors] = []
    for part in dict.fromkeys(row.step.part for row in first.values() if row):
        inside += measure(by_part[part], f"{part}, step by step,")
    for column, row in first.items():
        if row:
            deeper = [r for r in inside if r.step.part == row.step.part]
            first[column] = _first(deeper, column, threshold) or row
    return Localization(columns, threshold, parts, inside, first, skipped, broken)


def _first(rows: Sequence[StepErrors], column: str, threshold: float) -> StepErrors | None:
    return next((r for r in rows if column in r.errors and not r.errors[column].size <= threshold), None)


def cpu_runner(path: Path, inputs: Arrays) -> Arrays:
    """LiteRT's CPU runtime."""
    return open_model(path, backend="cpu").run(inputs)


def gpu_runner(compute: Compute) -> Runner:
    """The ML Drift delegate, strict, computing in `compute`."""

    def run(path: Path, inputs: Arrays) -> Arrays:
        result = run_on_gpu(path, [inputs], compute)
        if result.verdict is Verdict.NO_ADAPTER:
            raise InputError(result.detail)
        if result.verdict is not Verdict.RAN:
            raise GateError(result.detail)
        return result.outputs[0]

    return run


def file_reference(path: Path, inputs: Arrays) -> Reference:
    """Another file on the CPU, its tensors matched by name: the float32 file of a quantized one, say."""
    graph = read_graph(path)

    def values(some: Sequence[Step]) -> Values:
        wanted = {step.tensor.name: step.tensor for step in some}
        theirs = {s.tensor.index: s.tensor for s in steps(graph) if s.tensor.name in wanted}
        if not theirs:
            raise InputError(f"{path} has none of the tensors looked at, by name; give a file of the same conversion")
        with tempfile.TemporaryDirectory(prefix="pecore-localize-") as folder:
            copy = Path(folder, "exposed.tflite")
            names = expose(graph, list(theirs.values()), copy)
            found = _values(cpu_runner(copy, inputs), names)
        named = {theirs[i].name: array for i, array in found.items()}
        return {t.index: named[name] for name, t in wanted.items() if name in named and named[name].shape == t.shape}

    return values


def torch_reference(tower: Any, inputs: Arrays) -> Reference:
    """The torch module that the file was made from: each module's output, matched by the path of modules.

    A step that no module ends with, or whose layout is not the module's, has no reference.
    """
    import torch

    calls: dict[tuple[str, ...], list[np.ndarray]] = {}

    def keep(path: tuple[str, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            calls.setdefault(path, []).append(output.numpy())

    containers = {name for name, module in tower.named_modules() if isinstance(module, torch.nn.ModuleList)}
    handles = []
    for name, module in tower.named_modules():
        pieces = name.split(".") if name else []
        # A ModuleList is never called, so it is missing from the paths in a file.
        path = tuple(p for i, p in enumerate(pieces) if ".".join(pieces[: i + 1]) not in containers)
        handles.append(module.register_forward_hook(lambda _m, _a, output, path=path: keep(path, output)))
    with torch.no_grad():
        tower(*(torch.from_numpy(array) for array in inputs.values()))
    for handle in handles:
        handle.remove()
    # One that is called more than once (RoPE, which the blocks share) stands in several places under one name.
    outputs = {path: arrays[0] for path, arrays in calls.items() if len(arrays) == 1}

    def values(some: Sequence[Step]) -> Values:
        known = {s.tensor.index: (outputs[s.path], s.tensor.shape) for s in some if s.last and s.path in outputs}
        return {i: a.reshape(shape) for i, (a, shape) in known.items() if _squeezed(a.shape) == _squeezed(shape)}

    return values


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def compare(reference: np.ndarray, actual: np.ndarray) -> Error:
    """The error of a tensor, in float64; elements that are not finite in the reference are left out."""
    r, a = (x.reshape(-1, x.shape[-1] if x.ndim else 1).astype(np.float64) for x in (reference, actual))
    known = np.isfinite(r)
    nonfinite = int((known & ~np.isfinite(a)).sum())
    if nonfinite:
        return Error(nonfinite, *[math.nan] * 3)
    r, a = np.where(known, r, 0.0), np.where(known, a, 0.0)
    off, norm = np.linalg.norm(a - r, axis=0), np.linalg.norm(r, axis=0)
    live = norm > 0
    whole, total = float(np.linalg.norm(off)), float(np.linalg.norm(norm))
    relative = whole / total if total else 0.0 if whole == 0 else math.inf
    channel = float(np.median(off[live] / norm[live])) if live.any() else relative
    r, a = r - r.mean(), a - a.mean()
    spread = float(np.linalg.norm(r) * np.linalg.norm(a))
    return Error(0, float((r * a).sum()) / spread if spread else math.nan, relative, channel)


def steps(graph: Graph) -> list[Step]:
    """The ops that make float32 tensors of a fixed shape out of the inputs, in order, with their place in the network.

    Parts are contiguous: an op whose name belongs to a part that is over goes with the part it stands in. A mean that
    is at once subtracted from what it is the mean of is none: of a mean-free stream (rewrites/norm.py) it is rounding.
    """
    subtracted = {(op.inputs[1], op.inputs[0]) for op in graph.ops if op.name == "SUB"}
    constants = {o.index for op in graph.ops if all(t is None or t.constant for t in op.inputs) for o in op.outputs[:1]}
    ops = [op for op in graph.ops if op.outputs and op.outputs[0].index not in constants and _exposable(op.outputs[0])]
    ops = [op for op in ops if op.name != "MEAN" or (op.outputs[0], op.inputs[0]) not in subtracted]
    paths = _paths([op.outputs[0].name for op in ops])
    parts: list[tuple[str, int]] = []  # label and length of the path that leads to the part
    over: set[str] = set()
    for path in paths:
        label, depth = _part(path)
        if parts and label != parts[-1][0]:
            over.add(parts[-1][0])
        parts.append(parts[-1] if parts and label in over else (label, depth))
    names = [tuple(name for _, name in path) for path in paths]
    if len({label for label, _ in parts}) < 3:  # the names tell nothing
        size = max(1, math.isqrt(len(ops)))
        starts = [ops[i - i % size] for i in range(len(ops))]
        parts = [(f"{first.name} (op {first.index}) on", 0) for first in starts]
    return [
        Step(op, label, _step_name(op, path[depth:], label), path, _leaves(path, names[i + 1 :]))
        for i, (op, path, (label, depth)) in enumerate(zip(ops, names, parts))
    ]


def _leaves(path: tuple[str, ...], later: Sequence[tuple[str, ...]]) -> bool:
    """Nothing that comes later belongs to the module at `path`, or to one inside it."""
    return all(other[: len(path)] != path for other in later)


def _exposable(tensor: Tensor) -> bool:
    return tensor.dtype == "float32" and bool(tensor.shape) and min(tensor.shape + tensor.shape_signature) > 0


_TORCH_MODULE = re.compile(r".*\.(?P<type>_?[A-Za-z0-9]+)_(?P<name>\w*)")


def _paths(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Of each tensor name the modules that lead to it, as (type, name), without those that all have in common.

    The converter joins the names of merged ops with `;;` and numbers those of one module with `;2`. An output's name is
    the signature's, without a path: it goes with the op before.
    """
    paths: list[list[tuple[str, str]]] = []
    for name in names:
        pieces = name.partition(";")[0].split("/")
        if len(pieces) == 1 and paths:
            paths.append(paths[-1])
            continue
        found = [_TORCH_MODULE.fullmatch(piece) for piece in pieces]
        paths.append([(m["type"], m["name"]) if m else ("", piece) for m, piece in zip(found, pieces)])
    common = 0
    while paths and all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1
    return [path[common:] for path in paths]


def _part(path: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """The label of the part that a path belongs to, and how much of the path leads to it: as far as the first module
    with a number for a name, which is one of a list, or else the first module."""
    numbered = next((i for i, (_, name) in enumerate(path) if name.isdigit()), None)
    if numbered is None:
        return (path[0][1], 1) if path else ("graph", 0)
    kind, name = path[numbered]
    return f"{kind} {name}".strip(), numbered + 1


def _step_name(op: Op, path: Sequence[str], part: str) -> str:
    if path:
        return ".".join(path)
    return "residual" if op.name == "ADD" and part.split()[-1].isdigit() else op.name.lower()


def _values(outputs: Arrays, names: Mapping[int, str]) -> Values:
    return {index: outputs[name] for index, name in names.items()}
