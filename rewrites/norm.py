"""LayerNorm whose sum of squares fits fp16.

The limitation: ML Drift computes in fp16 by default and its reductions accumulate there (LiteRT issue 9249: asking for
fp32 accumulation does not cover them). PE's residual stream carries massive activations; the sum over channels of their
squares passes 65504, the variance becomes inf, and the tower's output NaN.

The workaround: work in a scaled domain. With d = s * (x - mean), s a power of two,

    (x - mean) * rsqrt(var + eps)  =  d * rsqrt(mean(d^2) + eps * s^2)

Nothing is undone afterwards. The widely copied form squares x/32 and then *rebuilds* the variance (times 1024) before
the rsqrt: that only moves the overflow to the rebuilt value.

Exact because: LayerNorm is invariant to scale but for eps, which is scaled along; s is a power of two, so scaling
rounds nothing.

Two more steps make it cheap. s lives in the residual stream itself (its producers' weights carry it, see `tower.py`),
so no MUL is spent on it; the affine part (weight, bias) is folded into the Linear that reads the result (`fold.py`).
And the seven ops MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL are a form that ML Drift (2.1.6 to 2.3.0) knows and runs as one
kernel, its sums in fp32, as long as eps is a single number and MEAN keeps its axis: `barrier.py` sees to that. Other
delegates get seven ops that are right in fp16 as they stand. Where s comes from, and when a norm needs a factor of its
own: docs/numerics.md.

One kernel or not, the subtraction has a price where activations are massive: fp16 rounds the few large channels, their
mean takes the rounding along, and SUB puts it on every other channel. So the stream is kept free of its mean over
channels (every reader of it is a LayerNorm, which ignores the mean; the producers' output channels are centred once, in
their weights), and a norm loud enough to have a factor below 1 subtracts nothing: three kernels, and right
(`leaves_mean`).

RMSNorm is the same without the mean: x * rsqrt(mean(x^2) + eps). A stream that one of them reads keeps its mean.
"""

import math

import torch
from torch import Tensor, nn

from .barrier import barrier

LEAST_CARRIED = 1.0 / 32
"""The smallest power of two that weights are given to carry: below it, most of them would be subnormal in fp16, and
lost on a GPU that flushes those (docs/numerics.md)."""


def carried_factor(factor: float) -> float:
    """What the weights before a norm carry of its factor; the rest, if any, is the norm's `gain`, one MUL."""
    return max(factor, LEAST_CARRIED)


def leaves_mean(norm: nn.Module, gain: float, mean_free: bool) -> bool:
    """Whether the rewrite of timm's `norm` subtracts no mean: an RMSNorm never does, a LayerNorm does without where its
    input is free of it but for rounding, and loud (`gain` below 1): there the rounding is what it would subtract."""
    return not isinstance(norm, nn.LayerNorm) or (mean_free and gain < 1)


class ScaledLayerNorm(nn.Module):
    """LayerNorm without its affine part, of a tensor that already carries the scale; RMSNorm where `centred`, of a
    tensor that keeps its mean.

    Args:
        eps: of the LayerNorm it replaces.
        scale: s, by which the input has been multiplied already; a power of two.
        gain: a further power of two for this norm alone (1 costs no op), where the stream's scale would push the
            squares of quiet tokens below fp16's smallest numbers.
        centred: nothing is subtracted: the input has mean 0 over its last axis, or the norm is an RMSNorm.
        weight: `[C]`, the LayerNorm's own, where it is not folded into the next Linear (`tower.rewrite` says when).
        dtype: of the weight.
    """

    weight: Tensor | None

    def __init__(
        self,
        eps: float,
        scale: float = 1.0,
        gain: float = 1.0,
        *,
        centred: bool = True,
        weight: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        for name, value in (("scale", scale), ("gain", gain)):
            if value <= 0 or math.frexp(value)[0] != 0.5:
                raise ValueError(f"{name} must be a power of two, not {value}: anything else would round")
        self.scale, self.gain, self.centred = scale, gain, centred
        self.eps = eps * (scale * gain) ** 2
        self.register_buffer("weight", None if weight is None else weight.to(dtype))

    def deviation(self, x: Tensor) -> Tensor:
        """d = s * (x - mean): what gets squared."""
        x = x if self.gain == 1.0 else x * self.gain
        return x if self.centred else x - x.mean(-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` -> the same, mean 0 and variance 1 over the last axis (times `weight`)."""
        d = self.deviation(x)
        y = d * torch.rsqrt(barrier((d * d).mean(-1, keepdim=True)) + self.eps)
        return y if self.weight is None else y * self.weight


class UnitNorm(nn.Module):
    """x * rsqrt(sum x^2): L2 normalisation, in the form ML Drift takes.

    x / sqrt(sum x^2) becomes L2_NORMALIZATION, which the delegate refuses. The sum has the LayerNorm's trouble in fp16,
    in both directions; the input must carry a power of two that centres it (`Scales.head` in `tower.py`). Exact: the
    result does not depend on the input's scale.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]` with L2 norm 1."""
        return x * torch.rsqrt((x * x).sum(-1, keepdim=True))
