"""What each rewrite replaces, as modules that fit into the rewritten tower, and the towers that have one of them.

The ablation (`ablation.py`) puts one original back at a time, so that two towers differ in one form and in nothing
else: what is not the subject of a row (folded weights, the stream's scale, the mean-free stream) stays as the rewrites
have it. Every tower here computes what timm's computes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pecore.rewrites.attention import Attention
from pecore.rewrites.fold import after_norm, as_linear, from_linear, norm_affine
from pecore.rewrites.norm import ScaledLayerNorm
from pecore.rewrites.pool import AttentionPool
from pecore.rewrites.tower import Scales, rewrite

PUBLISHED_SHIFT = 32.0
"""By which the published B/16 conversion divides before it squares; it multiplies the variance by the square of it."""


class FiveAxisAttention(Attention):
    """timm's split of the fused projection: `[B, N, 3, H, d]`, permuted and unbound. RoPE and products as rewritten."""

    def forward(self, x: Tensor) -> Tensor:
        tokens, heads = x.shape[-2], self.heads
        qkv = self.qkv(x).reshape(x.shape[0], tokens, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        qk = torch.cat((q, k), 1)
        if self.rope is not None:
            qk = self.rope(qk)
        k = qk.transpose(2, 3)[:, heads:]
        return self.proj(self.joined(self.context(self.softmax(self.scores(qk[:, :heads], k)), v)))


class FoldedTransposeAttention(Attention):
    """k transposed right before the product, as one writes it: the converter folds that into `adj_y`."""

    def forward(self, x: Tensor) -> Tensor:
        tokens, heads = x.shape[-2], self.heads
        qkv = self.qkv(x).reshape(x.shape[0], tokens, 3 * heads, self.head_dim).permute(0, 2, 1, 3)
        qk, v = qkv[:, : 2 * heads], qkv[:, 2 * heads :]
        if self.rope is not None:
            qk = self.rope(qk)
        attention = self.softmax(self.scores(qk[:, :heads], qk[:, heads:].transpose(2, 3)))
        return self.proj(self.joined(self.context(attention, v)))


class RankTwoProjection(Attention):
    """Heads joined without a barrier: the converter takes them to `[N, C]` for the projection."""

    def joined(self, context: Tensor) -> Tensor:
        return context.permute(0, 2, 1, 3).reshape(context.shape[0], 1, context.shape[2], -1)


class TorchMatMul(nn.Module):
    """`torch.matmul`, which litert-torch lowers to RESHAPE, rank-3 BATCH_MATMUL, RESHAPE."""

    def forward(self, lhs: Tensor, rhs: Tensor) -> Tensor:
        return torch.matmul(lhs, rhs)


class InterleavedRotation(nn.Module):
    """timm's RoPE: class token off, every other channel sliced, stacked to rank 5, class token back on.

    Args:
        sin, cos: `[patches, d]`, as timm makes them.
        prefix: number of leading tokens that are not rotated.
    """

    keeps_order = True
    sin: Tensor
    cos: Tensor

    def __init__(self, sin: Tensor, cos: Tensor, prefix: int):
        super().__init__()
        self.prefix = prefix
        # litert-torch 0.10 tells constants apart by their address, after it made non-contiguous ones contiguous in
        # memory that it frees: of two strided tables of one shape, one could end up in the other's place.
        self.register_buffer("sin", sin.contiguous())
        self.register_buffer("cos", cos.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """`[1, heads, tokens, d]`, q and k in timm's channel order -> the same, rotated."""
        fixed, x = x[:, :, : self.prefix], x[:, :, self.prefix :]
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
        return torch.cat((fixed, x * self.cos + turned * self.sin), 2)


class TimmPool(nn.Module):
    """timm's `AttentionPoolLatent` itself, with the tower's final LayerNorm's affine part folded into kv.

    The pooled row carries no scale: rewrite the rest of the tower with `Scales.pool` 1.
    """

    def __init__(self, pool: Any, norm: Any, dtype: torch.dtype):
        super().__init__()
        self.pool = copy.deepcopy(pool).to(dtype)
        self.pool.kv = as_linear(after_norm(from_linear(pool.kv), norm), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[1, 1, N, C]` -> `[1, C]`."""
        return self.pool(x.flatten(0, 1))


class PlainLayerNorm(nn.Module):
    """`F.layer_norm` without its affine part, of a tensor that carries no scale."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class PublishedLayerNorm(nn.Module):
    """The form the published B/16 conversion uses and others copy: squares of x/32, then the variance *rebuilt*."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        variance = (d / PUBLISHED_SHIFT).square().mean(-1, keepdim=True) * PUBLISHED_SHIFT**2
        return d * torch.rsqrt(variance + self.eps)


class FoldedEps(nn.Module):
    """A rewritten LayerNorm without the barrier: the converter adds eps before it restores MEAN's kept axis."""

    def __init__(self, norm: ScaledLayerNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        d = self.norm.deviation(x)
        return d * torch.rsqrt((d * d).mean(-1, keepdim=True) + self.norm.eps)


class AffineNorm(nn.Module):
    """A rewritten norm with the affine part of the LayerNorm it stands for left in the graph."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.Module, original: Any, dtype: torch.dtype):
        super().__init__()
        self.norm = norm
        weight, bias = norm_affine(original)
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.weight + self.bias


class RootNorm(nn.Module):
    """x / sqrt(sum x^2), which the converter recognises as L2_NORMALIZATION."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).sum(-1, keepdim=True))


class TorchNormalize(nn.Module):
    """`F.normalize`: its clamp keeps the converter from recognising it; it stays SUM, POW, MAXIMUM, DIV."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class TimmTower(nn.Module):
    """timm's tower as it is, L2-normalised like the rewritten one; a copy only for another dtype."""

    def __init__(self, model: Any, dtype: torch.dtype):
        super().__init__()
        same = next(model.parameters()).dtype == dtype
        self.model, self.normalize = model if same else copy.deepcopy(model).to(dtype), TorchNormalize()

    def forward(self, image: Tensor) -> Tensor:
        return self.normalize(self.model(image))


@dataclass(frozen=True)
class Pair:
    """A rewritten tower and what it was made from."""

    tower: Any
    model: Any
    scales: Scales
    dtype: torch.dtype

    def blocks(self) -> Iterator[tuple[Any, Any]]:
        """(rewritten, timm's), block by block."""
        return zip(self.tower.blocks, self.model.blocks)


Swap = Callable[[Pair], nn.Module]
"""Puts originals into the pair's tower and returns it (or a tower of its own)."""


def with_attention(kind: type[Attention]) -> Swap:
    """Every block's attention as `kind`, with the rewrites' RoPE and projections."""

    def swap(pair: Pair) -> nn.Module:
        for ours, theirs in pair.blocks():
            ours.attn = kind(theirs.attn, theirs.norm1, ours.attn.rope, ours.attn.proj, pair.dtype)
        return pair.tower

    return swap


def with_norms(kind: Callable[[float], nn.Module]) -> Swap:
    """Every LayerNorm as `kind`, which is given its eps; on a tower without scales."""

    def swap(pair: Pair) -> nn.Module:
        tower, model = pair.tower, pair.model
        for ours, theirs in pair.blocks():
            ours.norm1, ours.norm2 = kind(theirs.norm1.eps), kind(theirs.norm2.eps)
        if tower.stem.norm_pre is not None:
            tower.stem.norm_pre = kind(model.norm_pre.eps)
        tower.norm, tower.pool.norm = kind(model.norm.eps), kind(model.attn_pool.norm.eps)
        return tower

    return swap


def with_torch_matmul(pair: Pair) -> nn.Module:
    for ours, _ in pair.blocks():
        ours.attn.scores, ours.attn.context = TorchMatMul(), TorchMatMul()
    return pair.tower


def with_torch_matmul_in_pool(pair: Pair) -> nn.Module:
    pair.tower.pool.pooled = TorchMatMul()
    return pair.tower


def with_interleaved_rope(pair: Pair) -> nn.Module:
    model, dtype = pair.model, pair.dtype
    if model.rope is not None:
        sin, cos = model.rope.get_embed().detach().to(dtype).chunk(2, -1)
        rope = InterleavedRotation(sin, cos, model.num_prefix_tokens)
        for ours, theirs in pair.blocks():
            ours.attn = Attention(theirs.attn, theirs.norm1, rope, ours.attn.proj, dtype)
    return pair.tower


def with_timm_pool(pair: Pair) -> nn.Module:
    pair.tower.pool = TimmPool(pair.model.attn_pool, pair.model.norm, pair.dtype)
    return pair.tower


def with_subtracted_means(pair: Pair) -> nn.Module:
    for norm in (*(n for ours, _ in pair.blocks() for n in (ours.norm1, ours.norm2)), pair.tower.norm):
        norm.centred = False
    return pair.tower


def with_folded_eps(pair: Pair) -> nn.Module:
    for ours, _ in pair.blocks():
        ours.norm1, ours.norm2 = FoldedEps(ours.norm1), FoldedEps(ours.norm2)
    pair.tower.norm = FoldedEps(pair.tower.norm)
    return pair.tower


def with_affine_norms(pair: Pair) -> nn.Module:
    tower, model, dtype = pair.tower, pair.model, pair.dtype
    folded = nn.Identity()  # `after_norm` folds nothing from it
    for ours, theirs in pair.blocks():
        ours.attn = Attention(theirs.attn, folded, ours.attn.rope, ours.attn.proj, dtype)
        ours.mlp.fc1 = as_linear(from_linear(theirs.mlp.fc1), dtype)
        ours.norm1, ours.norm2 = (
            AffineNorm(ours.norm1, theirs.norm1, dtype),
            AffineNorm(ours.norm2, theirs.norm2, dtype),
        )
    tower.norm = AffineNorm(tower.norm, model.norm, dtype)
    tower.pool = AttentionPool(model.attn_pool, folded, pair.scales.pool, dtype)
    tower.pool.norm = AffineNorm(tower.pool.norm, model.attn_pool.norm, dtype)
    tower.pool.fc1 = as_linear(from_linear(model.attn_pool.mlp.fc1), dtype)
    return tower


def with_l2_norm(kind: Callable[[], nn.Module]) -> Swap:
    """The final normalisation as `kind`."""

    def swap(pair: Pair) -> nn.Module:
        pair.tower.head.normalize = kind()
        return pair.tower

    return swap


def _as_rewritten(pair: Pair) -> nn.Module:
    return pair.tower


def _unscaled(scales: Scales) -> Scales:
    return Scales(stem=1.0, stream=1.0, pool=1.0, head=scales.head)


def _as_chosen(scales: Scales) -> Scales:
    return scales


@dataclass(frozen=True)
class AblationRow:
    """One tower of the ablation.

    name: what a command line takes. out: what is taken out, in words. swap: how. scales: those chosen for the whole
    rewritten tower -> those this one is rewritten with.
    """

    name: str
    out: str
    swap: Swap
    scales: Callable[[Scales], Scales] = _as_chosen


ROWS: Sequence[AblationRow] = (
    AblationRow("none", "nothing: all rewrites", _as_rewritten),
    AblationRow("attention", "4-D attention: timm's 5-D qkv instead", with_attention(FiveAxisAttention)),
    AblationRow("matmul", "rank-4 products in attention: torch.matmul", with_torch_matmul),
    AblationRow("matmul-pool", "rank-4 product in the pool: torch.matmul", with_torch_matmul_in_pool),
    AblationRow("transpose", "k's transpose as an op of its own", with_attention(FoldedTransposeAttention)),
    AblationRow("rope", "half-rotation RoPE: timm's interleaved one", with_interleaved_rope),
    AblationRow("pool", "folded pooling: timm's AttentionPoolLatent", with_timm_pool, lambda s: replace(s, pool=1.0)),
    AblationRow("norm", "scaled LayerNorm: F.layer_norm", with_norms(PlainLayerNorm), _unscaled),
    AblationRow(
        "norm-published", "scaled LayerNorm: x/32, variance rebuilt", with_norms(PublishedLayerNorm), _unscaled
    ),
    AblationRow("eps", "LayerNorm as one kernel: eps before MEAN's kept axis", with_folded_eps),
    AblationRow("mean", "loud norms of a mean-free stream: each norm subtracts", with_subtracted_means),
    AblationRow("projection", "the projection at rank 4: rank 2", with_attention(RankTwoProjection)),
    AblationRow("affine", "folded LayerNorm weights and biases", with_affine_norms),
    AblationRow("l2", "rsqrt in the L2 norm: x / sqrt(sum x^2)", with_l2_norm(RootNorm)),
    AblationRow("l2-normalize", "rsqrt in the L2 norm: F.normalize", with_l2_norm(TorchNormalize)),
    AblationRow("timm", "everything: timm's tower as it is", lambda pair: TimmTower(pair.model, pair.dtype)),
)
"""In the order of the table; the first is what the others are held against."""


def ablated(row: AblationRow, model: Any, scales: Scales, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The tower of a row: image `[1, 3, H, W]` in [-1, 1] -> embedding `[1, D]` with L2 norm 1, as `rewrite`'s.

    Args:
        model: timm's tower; not touched.
        scales: those chosen for the whole rewritten tower (`headroom.choose_scales`).
    """
    scales = row.scales(scales)
    return row.swap(Pair(rewrite(model, scales, dtype=dtype), model, scales, dtype)).eval()
