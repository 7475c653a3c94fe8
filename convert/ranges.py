"""The ranges of activations that a file of integers is given, by ai-edge-quantizer's names for them.

Its own calibration moves a range by 5 % with each sample, so that a handful of pictures leaves them at the first one's:
here each sample widens them. And it stores the bias of an int16 Linear in int32, as a multiple of (input scale x weight
scale), where one larger than 2^31 of those steps comes out as another number, with no more said than "invalid value
encountered in cast". The Linear that writes a tower's massive activations can have such a bias: a wider range of its
input makes the steps larger, until it fits.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_quantizer import quantizer
from ai_edge_quantizer.utils import qsv_utils

from pecore.runtime import Arrays
from pecore.validate.graph import Graph, Op, Tensor

Ranges = dict[str, Any]
"""Name of an activation -> {"min": array, "max": array}."""

SIGNATURE = "serving_default"
SLACK = 1.01  # over a bias that would just fit: it is rounded after

MOVES = frozenset({"RESHAPE", "TRANSPOSE", "SLICE"})
"""Ops whose output has to have the scale of their input."""


def calibrate(made: quantizer.Quantizer, samples: Sequence[Arrays]) -> Ranges:
    """The smallest and the largest value of each tensor over `samples`, inputs by name."""
    ranges: Ranges = {}
    for sample in samples:
        for name, seen in made.calibrate({SIGNATURE: [sample]}).items():
            ranges[name] = qsv_utils.min_max_update(ranges.get(name, {}), seen)
    return ranges


def with_headroom(ranges: Ranges, factor: float) -> Ranges:
    """Ranges `factor` times as wide. Constants have none: they take theirs from their own values."""
    return {name: _times(seen, factor) for name, seen in ranges.items()}


def overflowing(graph: Graph, ranges: Ranges, bits: int = 16) -> dict[str, float]:
    """Output of each Linear whose bias doesn't fit, with activations of `bits` -> the bias in units of int32's largest
    number."""
    return {op.outputs[0].name: share for op, share in _shares(graph, ranges, bits) if share > 1}


def fit_biases(graph: Graph, ranges: Ranges) -> Ranges:
    """Ranges in which the input of each Linear with a bias that would overflow is as wide as the bias asks for."""
    ranges, producer = dict(ranges), {tensor.index: op for op in graph.ops for tensor in op.outputs}
    for op, share in list(_shares(graph, ranges, 16)):
        tensor = op.inputs[0]
        while share > 1 and tensor is not None:
            ranges[tensor.name] = _times(ranges[tensor.name], share * SLACK)
            before = producer.get(tensor.index)
            tensor = before.inputs[0] if before and before.name in MOVES else None
    return ranges


def _times(seen: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    return {end: value * factor for end, value in seen.items()}


def _shares(graph: Graph, ranges: Ranges, bits: int) -> Iterator[tuple[Op, float]]:
    """Each Linear with a bias, and that bias in units of int32's largest number."""
    for op in graph.ops:
        source, weight, bias = _linear(op)
        if source is None or weight is None or bias is None or not ranges.get(source.name):
            continue
        seen = ranges[source.name]
        largest = max(abs(float(np.min(seen["min"]))), abs(float(np.max(seen["max"]))))
        unit = largest / (2 ** (bits - 1) - 1) * np.abs(weight.value()).max(axis=1) / 127
        share = np.abs(bias.value()) / np.maximum(unit, np.finfo(np.float32).tiny) / 2**31
        yield op, float(share.max())


def _linear(op: Op) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Input, weight and bias of a Linear that has all three."""
    if op.name != "FULLY_CONNECTED" or len(op.inputs) < 3:
        return None, None, None
    source, weight, bias = op.inputs[:3]
    return source, weight, bias
