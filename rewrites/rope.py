"""Rotary position embedding as two multiplications and one swap.

The limitation: PE rotates interleaved pairs, (x0, x1), (x2, x3), ...; timm's way is a strided slice of every other
channel and a stack to rank 5, and it slices the class token off and concatenates it back. ML Drift has no rank 5.

The workaround: permute each head's q and k rows so that a pair's members sit half a head apart (even channels first,
then odd), once, in the qkv weights. Then

    rope(x) = x * cos + swap(x) * sin,      swap([a, b]) = [b, a],  sin = [-sin, +sin]

with constant tables; the class token gets cos = 1, sin = 0 and needs no slicing. swap is a d x d permutation, done by
one FULLY_CONNECTED (SLICE, SLICE, CONCATENATION would be three ops).

Exact because: q and k are permuted alike and meet only in their inner product; a permutation matrix adds zeros.

Towers that rotate halves to begin with (DINOv3) need no permutation: `halves=True`, and q and k as they are. Towers
with a table per head (mixed RoPE: learned frequencies per block and head) have q and k laid on the batch axis while
they are rotated, `[B, 2H, N, d]` as `[2B, H, N, d]`, so that one table of H heads serves both: two RESHAPEs, which move
nothing, against a constant twice as large.
"""

import torch
from torch import Tensor, nn


def half_split(head_dim: int) -> Tensor:
    """Channel order `[head_dim]` int64 that takes interleaved pairs to halves: 0, 2, 4, ..., 1, 3, 5, ..."""
    return torch.cat((torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)))


def bake(rows: Tensor, heads: int) -> Tensor:
    """Reorder the q or k rows `[heads * d, ...]` of a projection (its weight or bias), head by head, into halves."""
    head_dim = rows.shape[0] // heads
    return rows.reshape(heads, head_dim, *rows.shape[1:])[:, half_split(head_dim)].reshape(rows.shape)


class HalfRotation(nn.Module):
    """RoPE on heads whose pairs sit half a head apart.

    Args:
        sin, cos: `[patches, d]`, or `[heads, patches, d]` where each head has its own; as timm makes them.
        prefix: number of leading tokens (class, registers) that are not rotated.
        halves: the tables are for such heads already, and not for interleaved pairs.
    """

    sin: Tensor
    cos: Tensor

    def __init__(self, sin: Tensor, cos: Tensor, prefix: int, halves: bool = False):
        super().__init__()
        head_dim = sin.shape[-1]
        self.keeps_order = halves
        order = torch.arange(head_dim) if halves else half_split(head_dim)
        sign = torch.cat((-sin.new_ones(head_dim // 2), sin.new_ones(head_dim // 2)))
        unrotated = sin.new_zeros(*sin.shape[:-2], prefix, head_dim)
        shape = (1, -1, prefix + sin.shape[-2], head_dim)
        self.register_buffer("sin", torch.cat((unrotated, sin[..., order] * sign), -2).reshape(shape))
        self.register_buffer("cos", torch.cat((unrotated + 1, cos[..., order]), -2).reshape(shape))
        self.swap = nn.Linear(head_dim, head_dim, bias=False, dtype=sin.dtype).requires_grad_(False)
        with torch.no_grad():
            self.swap.weight.copy_(torch.eye(head_dim).roll(head_dim // 2, 0))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, heads, tokens, d]`, q's heads and then k's, -> the same, rotated."""
        shape = x.shape
        if self.sin.shape[1] > 1:
            x = x.reshape(-1, *self.sin.shape[1:])
        x = x * self.cos + self.swap(x) * self.sin
        return x.reshape(shape) if self.sin.shape[1] > 1 else x
