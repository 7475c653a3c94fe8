"""Weight algebra: moving what surrounds a Linear into it.

Each function works in float64 and rounds nothing; `as_linear` casts once, at the end. They cost a few lines at
conversion and take ops, and roundings, out of the graph for good.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Affine(NamedTuple):
    """y = weight @ x + bias; weight `[out, in]`, bias `[out]`, float64."""

    weight: Tensor
    bias: Tensor


def from_linear(linear: nn.Linear) -> Affine:
    """The Linear's numbers as float64; a missing bias is zeros."""
    weight = linear.weight.detach().double()
    bias = weight.new_zeros(weight.shape[0]) if linear.bias is None else linear.bias.detach().double()
    return Affine(weight, bias)


def after_norm(linear: Affine, norm: Any, keep_weight: bool = False) -> Affine:
    """Fold the affine part of the LayerNorm *before* it: W(w*x + b) + c = (W diag w) x + (W b + c).

    With `keep_weight` only the bias is folded, and the norm itself is to multiply by w.
    """
    if isinstance(norm, nn.Identity):
        return linear
    w, b = norm_affine(norm)
    return Affine(linear.weight if keep_weight else linear.weight * w, linear.bias + linear.weight @ b)


def norm_affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a LayerNorm or RMSNorm, each `[C]` float64; 1 and 0 where it has none."""
    size = norm.normalized_shape[-1]
    weight, bias = norm.weight, getattr(norm, "bias", None)
    return (
        (torch.ones(size) if weight is None else weight.detach()).double(),
        (torch.zeros(size) if bias is None else bias.detach()).double(),
    )


def scaled(linear: Affine, factor: float | Tensor) -> Affine:
    """factor * (Wx + b); a factor `[out]` scales each output channel (LayerScale)."""
    if isinstance(factor, Tensor):
        factor = factor.detach().double()
        return Affine(linear.weight * factor[:, None], linear.bias * factor)
    return Affine(linear.weight * factor, linear.bias * factor)


def centred(linear: Affine) -> Affine:
    """Wx + b less its mean over the output channels."""
    return Affine(linear.weight - linear.weight.mean(0, keepdim=True), linear.bias - linear.bias.mean())


def as_linear(linear: Affine, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    """The finished Linear, cast once to `dtype`."""
    out = nn.utils.skip_init(nn.Linear, linear.weight.shape[1], linear.weight.shape[0], bias=bias, dtype=dtype)
    with torch.no_grad():
        out.weight.copy_(linear.weight)
        if bias:
            out.bias.copy_(linear.bias)
    return out.requires_grad_(False)
