"""Large Linears in slices that fit a core's cache, for graphs that run on the CPU.

The cost: XNNPACK takes a few tokens at a time and goes through all weights for them. A Linear of 768 to 3072 has 9.4 MB
of float32 weights, more than a core's second-level cache, so they come from further away again for every few tokens.

The way round: the MLP in parts, each with its share of the hidden channels,

    fc2(act(fc1(x)))  =  sum over parts of fc2_p(act(fc1_p(x))),

and the projection to q, k and v in parts of its outputs; none with more weights than `LARGEST`. The hidden activations
get smaller, too.

Exact because: the same products; only the order of the sums over hidden channels changes. It costs ops (15 a block of
B/16), so it is for files that are made for the CPU: a GPU gains nothing. Measured in docs/benchmarks.md.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .fold import Affine, as_linear

LARGEST = 768 * 768
"""Weights of a slice, 2.4 MB in float32: the fastest of those tried on B/16 (`python -m benchmarks.tried`). T/16 and
S/16 have no Linear that is larger."""


class SlicedMlp(nn.Module):
    """A plain `Mlp` with its hidden channels in `parts`: `[B, 1, N, C]` -> the same."""

    def __init__(self, mlp: Any, parts: int):
        super().__init__()
        dtype = mlp.fc1.weight.dtype
        inner = zip(mlp.fc1.weight.chunk(parts), mlp.fc1.bias.chunk(parts))
        outer = mlp.fc2.weight.chunk(parts, 1)
        self.fc1 = nn.ModuleList(as_linear(Affine(*rows), dtype) for rows in inner)
        self.act = mlp.act
        self.fc2 = nn.ModuleList(
            as_linear(Affine(columns, mlp.fc2.bias), dtype, bias=i == 0) for i, columns in enumerate(outer)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = [fc2(self.act(fc1(x))) for fc1, fc2 in zip(self.fc1, self.fc2)]
        return sum(parts[1:], parts[0])


class SlicedLinear(nn.Module):
    """A Linear with its output channels in `parts`, concatenated: `[..., C]` -> `[..., D]`."""

    def __init__(self, linear: nn.Linear, parts: int):
        super().__init__()
        rows = zip(linear.weight.chunk(parts), linear.bias.chunk(parts))
        self.parts = nn.ModuleList(as_linear(Affine(*part), linear.weight.dtype) for part in rows)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


def slice_block(block: Any, largest: int = LARGEST) -> Any:
    """Slice what has more than `largest` weights in a rewritten `Block`, in place; an MLP with a gate stays as it is.
    Returns the block."""
    qkv, fc1 = block.attn.qkv, getattr(block.mlp, "fc1", None)  # with a gate it is called otherwise
    if (parts := math.ceil(qkv.weight.numel() / largest)) > 1:
        block.attn.qkv = SlicedLinear(qkv, parts)
    if fc1 is not None and (parts := math.ceil(fc1.weight.numel() / largest)) > 1:
        block.mlp = SlicedMlp(block.mlp, parts)
    return block
