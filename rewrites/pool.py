"""Attention pooling with one constant query, without a constant side in any matrix product.

The limitation: the latent query is a weight, so timm's q @ k^T is a BATCH_MATMUL with a constant left side, which ML
Drift refuses (and a constant right side has been mis-computed on phones); its kv projection is reshaped to rank 5.

The workaround: everything constant is folded, and the heads' outputs are picked by a broadcast product and a reduction.

  - scores: q_h . (W_k x + b_k) = (W_k^T q_h) . x + const, so all heads' scores are one Linear(C, heads). The constant
    is the same for every token of a head, and softmax ignores it.
  - values: attention weights sum to 1, so sum_n a_hn (W_v x_n + b_v) = W_v (sum_n a_hn x_n) + b_v: pool the tokens
    first, then project the `heads` pooled rows instead of all N tokens.
  - each head keeps its own C/heads channels of that: times a constant 0/1 mask [heads, C], SUM over heads.

Softmax runs over the last axis (over another one it costs five ops).

Exact because: linearity, and softmax's invariance to a shift.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .fold import Affine, after_norm, as_linear, from_linear, norm_affine, scaled
from .matmul import MatMul
from .norm import ScaledLayerNorm


class AttentionPool(nn.Module):
    """Standardised tokens in, one pooled row out, multiplied by `scale`.

    Args:
        pool: timm's `AttentionPoolLatent`, latent length 1.
        norm: the tower's final LayerNorm, whose affine part is folded in.
        scale: power of two that the pooled row carries, for its own LayerNorm; the reader divides it out.
        dtype: of the weights.
        keep_weight: the norms keep their weights (`fold.after_norm`).
    """

    mask: Tensor

    def __init__(self, pool: Any, norm: Any, scale: float, dtype: torch.dtype, keep_weight: bool = False):
        super().__init__()
        heads: int = pool.num_heads
        q = from_linear(pool.q) if isinstance(pool.q, nn.Linear) else None
        latent = pool.latent.detach().double().flatten()
        query = latent if q is None else q.weight @ latent + q.bias
        key, value = zip(*(t.chunk(2) for t in from_linear(pool.kv)))
        per_head = key[0].reshape(heads, -1, key[0].shape[1])
        rows = torch.einsum("hd,hdc->hc", query.reshape(heads, -1) * pool.scale, per_head)
        width = value[0].shape[0]

        self.scores = as_linear(after_norm(Affine(rows, rows.new_zeros(heads)), norm, keep_weight), dtype, bias=False)
        self.softmax, self.pooled = nn.Softmax(-1), MatMul()
        self.value = as_linear(after_norm(Affine(*value), norm, keep_weight), dtype)
        self.register_buffer("mask", torch.eye(heads, dtype=dtype).repeat_interleave(width // heads, 1)[None, None])
        self.proj = as_linear(scaled(from_linear(pool.proj), scale), dtype)
        kept = norm_affine(pool.norm)[0] if keep_weight else None
        eps: float = pool.norm.eps
        self.norm = ScaledLayerNorm(eps, scale, centred=False, weight=kept, dtype=dtype)
        self.fc1 = as_linear(after_norm(from_linear(pool.mlp.fc1), pool.norm, keep_weight), dtype)
        self.act = nn.GELU()
        self.fc2 = as_linear(scaled(from_linear(pool.mlp.fc2), scale), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, N, C]` -> `[B, 1, C]`."""
        attention = self.softmax(self.scores(x).transpose(2, 3))
        x = (self.value(self.pooled(attention, x)) * self.mask).sum(2)
        x = self.proj(x)
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class MeanPool(nn.Module):
    """The mean of the patch tokens, first across the grid, then down.

    The limitation: a sum over all tokens of a massive activation passes fp16's 65504, and one reduction over several
    axes has gone wrong on phones. Exact because: the rows of a grid are equally long, so the mean of their means is the
    mean.

    Args:
        grid: patches (down, across).
        prefix: number of leading tokens (class, registers), left out.
        scale: power of two that the tokens carry.
    """

    def __init__(self, grid: tuple[int, int], prefix: int, scale: float):
        super().__init__()
        self.grid, self.prefix, self.scale = grid, prefix, scale

    def rows(self, x: Tensor) -> Tensor:
        """Tokens `[B, 1, N, C]` -> patches on their grid, `[B, H, W, C]`."""
        x = x[:, :, self.prefix :] if self.prefix else x
        return x.reshape(x.shape[0], *self.grid, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, N, C]` -> `[B, 1, C]`."""
        return self.rows(x).mean(2).mean(1, keepdim=True)


class TokenPool(nn.Module):
    """The first token, `[B, 1, N, C]` -> `[B, 1, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, :1]
