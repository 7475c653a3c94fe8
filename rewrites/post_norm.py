"""Post-norm blocks: x + norm(attention(x)), then x + norm(mlp(x)).

The limitation: here the residual stream is read by Linears, which neither ignore its scale nor its mean, and the norms'
squares are those of the branches, each of another size.

The workaround: the stream carries its power of two all the same (the final norm wants it), and the Linears that read it
have the inverse in their weights. Each branch's last Linear is centred and carries a power of two that fits its own
norm; the norm's weight and bias, which write to the stream, carry the stream's. The stream keeps its mean.

Exact because: W x = (W / s)(s x), and powers of two round nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .fold import Affine, norm_affine
from .norm import ScaledLayerNorm, carried_factor, leaves_mean


def reads_scaled(linear: Affine, stream: float) -> Affine:
    """The Linear for an input that carries `stream`."""
    return Affine(linear.weight / stream, linear.bias)


class BranchNorm(nn.Module):
    """What a branch adds to the stream: `[B, 1, N, C]`, its last Linear's output, which carries
    `norm.carried_factor(factor)` -> the same, normalised, carrying the stream's scale.

    Args:
        norm: timm's.
        factor: power of two for the squares.
        stream: the residual stream's scale.
        dtype: of the constants.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: Any, factor: float, stream: float, dtype: torch.dtype):
        super().__init__()
        carried, eps = carried_factor(factor), float(norm.eps)
        gain = factor / carried
        self.norm = ScaledLayerNorm(eps, carried, gain, centred=leaves_mean(norm, gain, mean_free=True), dtype=dtype)
        weight, bias = norm_affine(norm)
        self.register_buffer("weight", (weight * stream).to(dtype))
        self.register_buffer("bias", (bias * stream).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.weight + self.bias


class PostNormBlock(nn.Module):
    """A post-norm transformer block on the scaled stream: `[B, 1, N, C]` -> the same."""

    def __init__(self, attn: nn.Module, attn_norm: nn.Module, mlp: nn.Module, mlp_norm: nn.Module):
        super().__init__()
        self.attn, self.attn_norm, self.mlp, self.mlp_norm = attn, attn_norm, mlp, mlp_norm

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn_norm(self.attn(x))
        return x + self.mlp_norm(self.mlp(x))
