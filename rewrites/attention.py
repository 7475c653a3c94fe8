"""Self-attention that never leaves rank 4.

The limitation: timm reshapes the fused projection to [B, N, 3, H, d], permutes and unbinds it: rank 5, which ML Drift
refuses. Its matrix products come out of the converter as rank-3 BATCH_MATMUL, or with adj_y set, which phones have
computed wrongly (`matmul.py`). With grouped queries it repeats each head of k and v, which the converter makes of
rank 5 again.

The workaround: one fused Linear, reshaped to [1, N, 3H, d] and transposed once to [1, 3H, N, d]; q, k and v are slices
of the head axis. RoPE runs on q and k together (`rope.py`). k is transposed by an op of its own, with a SLICE after it
that keeps the converter from folding it into adj_y. The heads are joined at rank 4 and stay so (`barrier.py`): at
rank 2 the residual ADD would be a kernel of its own. The softmax scale 1/sqrt(d) is in q's rows; the LayerNorm's affine
part is in the projection (`fold.py`). Where G query heads share one head of k and v, the queries go to that head as one
matrix of G * N rows: q [1, H, N, d] as [1, H / G, G * N, d], the context back again; two RESHAPEs, no copies.

Exact because: the same numbers, laid out differently.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .barrier import barrier
from .fold import Affine, after_norm, as_linear, from_linear
from .matmul import MatMul
from .norm import ScaledLayerNorm
from .qk_norm import NormedHeads
from .rope import bake


def fused_qkv(attention: Any) -> Affine:
    """q, k and v rows `[(H + 2 * H_kv) * d, C]`, biases included, of timm's `AttentionRope`, `EvaAttention` or plain
    `Attention`, fused or not."""
    if attention.qkv is None:
        parts = [from_linear(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
        return Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
    qkv = from_linear(attention.qkv)
    if getattr(attention, "q_bias", None) is None:
        return qkv
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias)).detach().double()
    return Affine(qkv.weight, qkv.bias + bias)


@dataclass(frozen=True)
class InnerNorms:
    """Norms inside an attention: on q and k, before they are rotated; on the heads' joined output, before the
    projection, whose weights have its affine part. The power of two of the latter is in v's rows: attention weights sum
    to 1 whatever they weigh."""

    qk: NormedHeads | None = None
    out: ScaledLayerNorm | None = None


class Attention(nn.Module):
    """Standardised tokens in, the attention branch's addition to the residual stream out.

    Args:
        attention: timm's module.
        norm: the LayerNorm before it, whose affine part is folded in; Identity where there is none.
        rope: the rotation, applied to q and k together, or None. `keeps_order`: it takes q and k in timm's channel
            order.
        out: the output projection as it is to be (folded, scaled, centred).
        dtype: of the weights.
        keep_weight: the norm keeps its weight (`fold.after_norm`).
        inner: norms inside.
    """

    def __init__(
        self,
        attention: Any,
        norm: Any,
        rope: nn.Module | None,
        out: nn.Linear,
        dtype: torch.dtype,
        keep_weight: bool = False,
        inner: InnerNorms = InnerNorms(),
    ):
        super().__init__()
        self.heads: int = attention.num_heads
        self.groups: int = getattr(attention, "num_kv_groups", 1)  # query heads to each head of k and v
        self.kv_heads = self.heads // self.groups
        rows = after_norm(fused_qkv(attention), norm, keep_weight)
        self.head_dim = rows.weight.shape[0] // (self.heads + 2 * self.kv_heads)
        sizes = [self.head_dim * heads for heads in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = zip(*(t.split(sizes) for t in rows))
        if inner.qk is None:
            q = tuple(t * attention.scale for t in q)
        else:
            q, k = (inner.qk.before(Affine(*pair)) for pair in (q, k))
        if inner.out is not None:
            v = tuple(t * inner.out.scale for t in v)
        if rope is not None and not getattr(rope, "keeps_order", False):
            q = tuple(bake(t, self.heads) for t in q)
            k = tuple(bake(t, self.kv_heads) for t in k)
        self.qkv = as_linear(Affine(*(torch.cat(parts) for parts in zip(q, k, v))), dtype)
        self.qk_norm, self.norm = inner.qk, inner.out
        self.rope = rope
        self.scores, self.softmax, self.context = MatMul(), nn.Softmax(-1), MatMul()
        self.proj = out

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1, N, C]` -> the same."""
        batch, tokens, heads, groups = x.shape[0], x.shape[-2], self.heads, self.groups
        qkv = self.qkv(x).reshape(batch, tokens, heads + 2 * self.kv_heads, self.head_dim).permute(0, 2, 1, 3)
        qk, v = qkv[:, : heads + self.kv_heads], qkv[:, heads + self.kv_heads :]
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        if self.rope is not None:
            qk = self.rope(qk)
        k = qk.transpose(2, 3)[:, heads:]  # transposed before it is sliced: see above
        q = qk[:, :heads]
        if groups > 1:
            q = q.reshape(batch, self.kv_heads, groups * tokens, self.head_dim)
        context = self.context(self.softmax(self.scores(q, k)), v)
        if groups > 1:
            context = context.reshape(batch, heads, tokens, self.head_dim)
        context = self.joined(context)
        return self.proj(context if self.norm is None else self.norm(context))

    def joined(self, context: Tensor) -> Tensor:
        """Heads side by side: `[B, H, N, d]` -> `[B, 1, N, H * d]`."""
        batch, heads, tokens, head_dim = context.shape
        return barrier(context.permute(0, 2, 1, 3).reshape(batch, 1, tokens, heads * head_dim))
