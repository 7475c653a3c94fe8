"""Norms on q and k, head by head, before they are rotated.

The limitation: these norms are sums of squares like any other (`norm.py`), over the d channels of a head: q and k of
size 30 are enough to pass 65504. Their weights sit between the projection and RoPE, which mixes channels, so they can
be folded into neither.

The workaround: q and k are normalised together, as [1, H + H_kv, N, d]. The power of two that fits their squares, and
the centring of each head where the norm is a LayerNorm, are in the projection's rows and cost nothing. The weights of
both norms are one constant [1, H + H_kv, 1, d], in the channel order that RoPE wants, with the softmax scale in q's.

Exact because: either norm ignores the scale of its input but for eps, which is scaled along; a LayerNorm ignores the
mean.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .fold import Affine, norm_affine, scaled
from .norm import ScaledLayerNorm, carried_factor, leaves_mean
from .rope import half_split


class NormedHeads(nn.Module):
    """`[B, H + H_kv, N, d]`, q's heads and then k's, as `before` has made them -> the same, normalised.

    Args:
        attention: timm's module, with `q_norm` and `k_norm` of one kind and eps.
        factor: power of two for the squares.
        baked: channels come in halves (`rope.half_split`) and not in timm's order.
        dtype: of the constants.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, attention: Any, factor: float, baked: bool, dtype: torch.dtype):
        super().__init__()
        heads: int = attention.num_heads
        kv_heads = heads // getattr(attention, "num_kv_groups", 1)
        self.centres = isinstance(attention.q_norm, nn.LayerNorm)
        self.carried = carried_factor(factor)
        eps: float = attention.q_norm.eps
        gain = factor / self.carried
        centred = leaves_mean(attention.q_norm, gain, mean_free=True)
        self.norm = ScaledLayerNorm(eps, self.carried, gain, centred=centred, dtype=dtype)
        q, k = norm_affine(attention.q_norm), norm_affine(attention.k_norm)
        order = half_split(len(q[0])) if baked else slice(None)
        weight, bias = (
            torch.cat([(of_q * attention.scale).expand(heads, -1), of_k.expand(kv_heads, -1)])[None, :, None, order]
            for of_q, of_k in zip(q, k)
        )
        self.register_buffer("weight", weight.to(dtype).contiguous())
        self.register_buffer("bias", bias.to(dtype).contiguous() if bias.any() else None)

    def before(self, rows: Affine) -> Affine:
        """The rows of q or of k `[heads * d, C]` as the norm wants them: centred head by head, carrying its factor."""
        if self.centres:
            rows = Affine(*(_centred_by_head(t, self.weight.shape[-1]) for t in rows))
        return scaled(rows, self.carried)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x) * self.weight
        return x if self.bias is None else x + self.bias


def _centred_by_head(rows: Tensor, head_dim: int) -> Tensor:
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    return (heads - heads.mean(1, keepdim=True)).reshape(rows.shape)
