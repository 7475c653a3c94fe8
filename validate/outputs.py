"""How far outputs are from those they should be, each judged by what is defined for it.

Floats are compared by direction and length (`parity`); an output without a direction (one element, or the same
everywhere) by its relative difference; quantized integers and bytes, which are pixels, in real units; other integers
and booleans, which are indices and decisions, by how many differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pecore.precision import PRECISIONS, Figures
from pecore.runtime import Arrays, TensorSpec
from pecore.validate import parity

FP16_NORMAL = 2.0**-14
"""fp16 keeps its eleven bits down to here; an output with nothing larger in it is zero to a GPU that computes in it."""

FP16_STEP = 2.0**-10
"""What fp16 can't tell apart beside 1, as the logit or the sum before a single score is: no error, however small the
score."""

UNEQUAL = 0.01
"""Share of an output's integers that may differ: those between two scores that rounding puts in the other order."""


@dataclass(frozen=True)
class Compared:
    """Figures of every output, those of the second and later ones as `<its name>.<figure>`, with the thresholds that
    apply to them; `told` is the first output's, for people."""

    figures: Mapping[str, Any]
    thresholds: Figures
    told: str


def compare_outputs(
    kind: str,
    precision: str,
    inputs: Sequence[Arrays],
    reference: Sequence[Arrays],
    actual: Sequence[Arrays],
    specs: Mapping[str, TensorSpec] | None = None,
) -> Compared:
    """The worst figures over samples.

    Args:
        kind: `cpu`, `gpu fp16`, `gpu fp32` or `npu`, as `Precision.thresholds` takes it.
        precision: of the file's weights.
        inputs, reference, actual: one dict of arrays by name for each sample.
        specs: of the outputs by name, for those that are quantized; a reference of such a one may be in real units.
    """
    compared = []
    for name in reference[0]:
        expected, got = [], []
        for given, there, here in zip(inputs, reference, actual, strict=True):
            apart = is_batch(given, there[name])
            expected += list(there[name]) if apart else [there[name]]
            got += list(here[name]) if apart else [here[name]]
        compared.append((name, _compare(kind, precision, expected, got, (specs or {}).get(name))))
    figures: dict[str, Any] = {"samples": len(reference)}
    thresholds: dict[str, float] = {}
    for i, (name, one) in enumerate(compared):
        prefix = f"{name}." if i else ""
        figures |= {prefix + figure: value for figure, value in one.figures.items()}
        thresholds |= {prefix + figure: value for figure, value in one.thresholds.items()}
    return Compared(figures, thresholds, compared[0][1].told if compared else "no output")


def _compare(
    kind: str, precision: str, expected: Sequence[np.ndarray], got: Sequence[np.ndarray], spec: TensorSpec | None
) -> Compared:
    if got[0].dtype == np.uint8 and (spec is None or spec.scale is None):  # pixels: real values in steps of 1
        spec = TensorSpec(got[0].shape, got[0].dtype, scale=1.0)
    step = spec.scale if spec is not None and spec.dtype.kind in "iu" else None
    if spec is not None and step is not None:
        expected, got = ([_real(array, spec) for array in arrays] for arrays in (expected, got))
        got = [_within_a_step(e, g, step) for e, g in zip(expected, got)]
    if got[0].dtype.kind in "iub":
        return _compare_choices(expected, got)
    if kind != "cpu":
        expected, got = zip(*(_same_nonfinite(e, g) for e, g in zip(expected, got)))
    row, unit, in_fp16 = PRECISIONS[precision], all(is_unit(array) for array in expected), kind in ("gpu fp16", "npu")
    limits = dict(row.thresholds(kind, unit))
    # As long as the difference of two vectors whose angle is at its limit.
    relative = math.sqrt(2 * max(0.0, 1 - limits.get("cosine", limits.get("correlation", 1.0))))
    if (
        kind != "cpu" and not unit
    ) or step is not None:  # a norm that nothing makes 1 at the end carries every op's rounding
        limits["norm_error"] = max(limits["norm_error"], relative)
    found = parity.compare(expected, got)
    smallest = FP16_NORMAL if in_fp16 else 0.0
    if all(parity.has_direction(array, relative, smallest) for array in expected):
        return Compared(found.as_dict(), limits, _told(kind, found, unit))
    if in_fp16:
        relative, got = row.localize, [_within_a_step(e, g, FP16_STEP) for e, g in zip(expected, got)]
    found = replace(found, relative_diff=parity.joint_relative_diff(expected, got, smallest))
    return Compared(found.as_dict(), {"relative_diff": relative}, f"relative |diff| {found.relative_diff:.1e}")


def _told(kind: str, found: parity.Parity, unit: bool) -> str:
    norm = f"|norm - 1| {found.norm_error:.0e}"
    if kind.startswith("gpu"):
        return f"correlation {found.correlation:.7f}, {norm}"
    difference = f"max |diff| {found.max_abs_diff:.1e}" if unit else f"relative |diff| {found.relative_diff:.1e}"
    parts = [f"cosine {found.cosine:.7f}", *([norm] if kind == "npu" else []), difference]
    return ", ".join(parts)


def _compare_choices(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> Compared:
    unequal = float(np.mean([np.mean(np.reshape(g, e.shape) != e) if e.size else 0.0 for e, g in zip(expected, got)]))
    return Compared({"unequal": unequal}, {"unequal": UNEQUAL}, f"{unequal:.2%} of the elements differ")


def _real(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Real values of stored ones; real ones as they are."""
    if array.dtype.kind not in "iu" or spec.scale is None:
        return array.astype(np.float64)
    return spec.scale * (array.astype(np.float64) - spec.zero_point)


def _within_a_step(expected: np.ndarray, got: np.ndarray, step: float) -> np.ndarray:
    """`got`, with what `expected` rounds to (the nearest step, or the next) taken for equal."""
    return np.where(np.abs(got - expected) <= step * (1 + 1e-6), expected, got)


def _same_nonfinite(cpu: np.ndarray, gpu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with zeros where neither is a number: the logarithm of noise, say."""
    both = ~np.isfinite(cpu) & ~np.isfinite(gpu)
    return (np.where(both, 0, cpu), np.where(both, 0, gpu)) if both.any() else (cpu, gpu)


def is_batch(inputs: Arrays, output: np.ndarray) -> bool:
    """Whether the first axis counts images, of which each is to be judged by itself."""
    first = {array.shape[0] if array.ndim else 1 for array in (*inputs.values(), output)}
    return len(first) == 1 and first != {1}


def is_unit(array: np.ndarray) -> bool:
    """Whether the array is an L2-normalised embedding, for which an absolute difference has a meaning."""
    return array.size > 1 and abs(float(np.linalg.norm(array.astype(np.float64))) - 1) < 1e-3
