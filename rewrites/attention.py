"""Self-attention that never leaves rank 4.

The wall: timm reshapes the fused projection to [B, N, 3, H, d], permutes and unbinds it: rank 5, which ML Drift
refuses. Its matrix products come out of the converter as rank-3 BATCH_MATMUL, or with adj_y set, which phones have
computed wrongly (`matmul.py`).

The way round: one fused Linear, reshaped to [1, N, 3H, d] and transposed once to [1, 3H, N, d]; q, k and v are slices
of the head axis. RoPE runs on q and k together (`rope.py`). k is transposed by an op of its own, with a SLICE behind it
that keeps the converter from folding it into adj_y. The softmax scale 1/sqrt(d) is in q's rows; the LayerNorm's affine
part is in the projection (`fold.py`).

Exact because: the same numbers, laid out differently.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .fold import Affine, after_norm, as_linear, from_linear
from .matmul import MatMul
from .rope import bake


def fused_qkv(attention: Any) -> Affine:
    """q, k and v rows `[3 * C, C]`, biases included, of timm's `AttentionRope` or `EvaAttention`, fused or not."""
    if attention.qkv is None:
        parts = [from_linear(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
        return Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
    qkv = from_linear(attention.qkv)
    if getattr(attention, "q_bias", None) is None:
        return qkv
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias)).detach().double()
    return Affine(qkv.weight, qkv.bias + bias)


class Attention(nn.Module):
    """Standardised tokens in, the attention branch's addition to the residual stream out.

    Args:
        attention: timm's module.
        norm: the LayerNorm before it, whose affine part is folded in.
        rope: the rotation, applied to q and k together, or None.
        out: the output projection as it is to be (folded, scaled, centred).
        dtype: of the weights.
        keep_weight: the norm keeps its weight (`fold.after_norm`).
        interleaved: leave q and k in timm's channel order (only the ablation wants this).
    """

    def __init__(
        self,
        attention: Any,
        norm: Any,
        rope: nn.Module | None,
        out: nn.Linear,
        dtype: torch.dtype,
        keep_weight: bool = False,
        interleaved: bool = False,
    ):
        super().__init__()
        self.heads: int = attention.num_heads
        q, k, v = zip(*(t.chunk(3) for t in after_norm(fused_qkv(attention), norm, keep_weight)))
        self.head_dim = q[0].shape[0] // self.heads
        q = tuple(t * attention.scale for t in q)
        if rope is not None and not interleaved and not getattr(rope, "halves", False):
            q, k = (tuple(bake(t, self.heads) for t in pair) for pair in (q, k))
        self.qkv = as_linear(Affine(*(torch.cat(parts) for parts in zip(q, k, v))), dtype)
        self.rope = rope
        self.scores, self.softmax, self.context = MatMul(), nn.Softmax(-1), MatMul()
        self.proj = out

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, N, C]` -> the same."""
        tokens, heads = x.shape[-2], self.heads
        qkv = self.qkv(x).reshape(x.shape[0], tokens, 3 * heads, self.head_dim).permute(0, 2, 1, 3)
        qk, v = qkv[:, : 2 * heads], qkv[:, 2 * heads :]
        if self.rope is not None:
            qk = self.rope(qk)
        k = qk.transpose(2, 3)[:, heads:]  # transposed before it is sliced: see above
        attention = self.softmax(self.scores(qk[:, :heads], k))
        context = self.context(attention, v).permute(0, 2, 1, 3)
        return self.proj(context.reshape(x.shape[0], 1, tokens, heads * self.head_dim))
