"""The tower as the published B/16 conversion structures it, rebuilt from its description to be measured against.

That conversion (187 MB in fp16, 1028 nodes on the delegate) has q, k and v as Linears of their own; RoPE by halves,
with the class token sliced off and put back; attention on rank-3 tensors `[heads, N, d]`; LayerNorms that square x/32
and multiply the variance by 1024 again; and a pool whose query is a constant. What the description leaves open is
written here as one would write it in PyTorch. It computes what timm's tower computes (`tests/benchmarks`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pecore.rewrites.fold import Affine, as_linear, from_linear, norm_affine
from pecore.rewrites.rope import bake, half_split
from pecore.validate.ablation_variants import PublishedLayerNorm, TorchNormalize


class AffineLayerNorm(PublishedLayerNorm):
    """The published form, followed by the LayerNorm's own weight and bias."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: Any, dtype: torch.dtype):
        super().__init__(norm.eps)
        weight, bias = norm_affine(norm)
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weight + self.bias


class SlicedRotation(nn.Module):
    """RoPE by halves on the patch tokens; the class token is sliced off and concatenated back.

    Args:
        sin, cos: `[patches, d]`, interleaved pairs as timm makes them.
        prefix: number of leading tokens that are not rotated.
    """

    sin: Tensor
    cos: Tensor

    def __init__(self, sin: Tensor, cos: Tensor, prefix: int):
        super().__init__()
        order = half_split(sin.shape[-1])
        self.prefix = prefix
        self.register_buffer("sin", sin[:, order].contiguous())
        self.register_buffer("cos", cos[:, order].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """`[heads, N, d]`, channels in `half_split` order -> the same, rotated."""
        fixed, x = x[:, : self.prefix], x[:, self.prefix :]
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return torch.cat((fixed, x * self.cos + turned * self.sin), 1)


def split(x: Tensor, heads: int) -> Tensor:
    """`[1, N, C]` -> `[heads, N, d]`."""
    batch, tokens, width = x.shape
    x = x.reshape(batch, tokens, heads, width // heads).permute(0, 2, 1, 3)
    return x.reshape(batch * heads, tokens, width // heads)


class RankThreeAttention(nn.Module):
    """`[1, N, C]` -> the same: three projections, heads as the batch of `torch.bmm`."""

    def __init__(self, attention: Any, rope: nn.Module | None, dtype: torch.dtype):
        super().__init__()
        self.heads: int = attention.num_heads
        self.scale: float = attention.scale
        rows = [t.chunk(3) for t in from_linear(attention.qkv)]
        q, k, v = (Affine(weight, bias) for weight, bias in zip(*rows))
        if rope is not None:
            q, k = (Affine(*(bake(t, self.heads) for t in pair)) for pair in (q, k))
        self.q, self.k, self.v = (as_linear(part, dtype) for part in (q, k, v))
        self.rope = rope
        self.proj = as_linear(from_linear(attention.proj), dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (split(linear(x), self.heads) for linear in (self.q, self.k, self.v))
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        scores = torch.bmm(q, k.transpose(1, 2)) * self.scale
        context = torch.bmm(scores.softmax(-1), v)
        context = context.reshape(batch, self.heads, tokens, -1).permute(0, 2, 1, 3)
        return self.proj(context.reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Linear, GELU, Linear, as timm has them."""

    def __init__(self, mlp: Any, dtype: torch.dtype):
        super().__init__()
        self.fc1, self.fc2 = (as_linear(from_linear(linear), dtype) for linear in (mlp.fc1, mlp.fc2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm block on `[1, N, C]`."""

    def __init__(self, block: Any, rope: nn.Module | None, dtype: torch.dtype):
        super().__init__()
        self.norm1, self.norm2 = AffineLayerNorm(block.norm1, dtype), AffineLayerNorm(block.norm2, dtype)
        self.attn, self.mlp = RankThreeAttention(block.attn, rope, dtype), Mlp(block.mlp, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConstantQueryPool(nn.Module):
    """Attention pooling whose projected query is a constant; its product with k is a broadcast one and a SUM."""

    query: Tensor

    def __init__(self, pool: Any, dtype: torch.dtype):
        super().__init__()
        self.heads: int = pool.num_heads
        q = from_linear(pool.q)
        query = (q.weight @ pool.latent.detach().double().flatten() + q.bias) * pool.scale
        self.register_buffer("query", query.reshape(self.heads, 1, -1).to(dtype))
        k, v = (Affine(*part) for part in zip(*(t.chunk(2) for t in from_linear(pool.kv))))
        self.k, self.v, self.proj = (as_linear(part, dtype) for part in (k, v, from_linear(pool.proj)))
        self.norm, self.mlp = AffineLayerNorm(pool.norm, dtype), Mlp(pool.mlp, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[1, N, C]` -> `[1, C]`."""
        k, v = split(self.k(x), self.heads), split(self.v(x), self.heads)
        attention = (k * self.query).sum(-1, keepdim=True).softmax(1)
        x = self.proj((v * attention).sum(1).reshape(1, -1))
        return x + self.mlp(self.norm(x))


class PublishedTower(nn.Module):
    """Image `[1, 3, H, W]` in [-1, 1] -> embedding `[1, D]` with L2 norm 1, from timm's core tower.

    Args:
        model: timm's tower, with a pool, a head and norm_pre; not touched.
    """

    cls: Tensor | None
    positions: Tensor

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        conv = model.patch_embed.proj
        self.conv = nn.Conv2d(3, conv.out_channels, conv.kernel_size, conv.stride, bias=False, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.copy_(conv.weight)
        self.register_buffer("cls", None if model.cls_token is None else model.cls_token.detach().to(dtype))
        self.register_buffer("positions", model.pos_embed.detach().to(dtype))
        self.norm_pre = AffineLayerNorm(model.norm_pre, dtype)
        sin, cos = model.rope.get_embed().detach().to(dtype).chunk(2, -1)
        rope = SlicedRotation(sin, cos, model.num_prefix_tokens)
        self.blocks = nn.ModuleList(Block(block, rope, dtype) for block in model.blocks)
        self.norm = AffineLayerNorm(model.norm, dtype)
        self.pool = ConstantQueryPool(model.attn_pool, dtype)
        self.head = as_linear(from_linear(model.head), dtype)
        self.normalize = TorchNormalize()
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image).flatten(2).transpose(1, 2)
        x = x if self.cls is None else torch.cat((self.cls, x), 1)
        x = self.norm_pre(x + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.normalize(self.head(self.pool(self.norm(x))))
