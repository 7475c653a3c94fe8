"""Weights that fp16 keeps as subnormal numbers, or not at all."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pecore.validate.headroom import FP16_SMALLEST_NORMAL


@dataclass(frozen=True)
class Subnormals:
    """The weights of one kind of layer, over all blocks, as fp16 stores them.

    subnormal: how many are below 2^-14 but not 0. zero: how many became 0. lost: what a GPU that flushes subnormal
    numbers to 0 would lose, as a share of the weights' L2 norm.
    """

    kind: str
    weights: int
    subnormal: int
    zero: int
    lost: float

    @property
    def share(self) -> float:
        return (self.subnormal + self.zero) / self.weights

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def subnormal_weights(tower: nn.Module) -> list[Subnormals]:
    """One entry for each kind of Linear and convolution (`blocks.*.attn.proj`), in the tower's order."""
    kinds: dict[str, list[Tensor]] = {}
    for name, module in tower.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith("rope.swap"):  # that one is 0s and 1s
            kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(module.weight.detach())
    return [_count(kind, tensors) for kind, tensors in kinds.items()]


def _count(kind: str, tensors: list[Tensor]) -> Subnormals:
    weights = subnormal = zero = 0
    lost = total = 0.0
    for tensor in tensors:
        stored = tensor.to(torch.float16).double().abs()
        small = (stored < FP16_SMALLEST_NORMAL) & (tensor != 0)
        weights += tensor.numel()
        zero += int((small & (stored == 0)).sum())
        subnormal += int((small & (stored > 0)).sum())
        lost += float(tensor.double()[small].square().sum())
        total += float(tensor.double().square().sum())
    return Subnormals(kind, weights, subnormal, zero, (lost / total) ** 0.5 if total else 0.0)
