"""The rewritten tower: timm's Perception Encoder vision tower with every wall gone, same numbers.

The residual stream is [1, 1, N, C], carries the power of two `Scales.stream` and has no mean over channels (`norm.py`
says why); the weights of its producers (patch embedding or norm_pre, every attn.proj and mlp.fc2) see to both. Each
rewrite is in a file of its own; this one decides what is folded where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .fold import Affine, after_norm, as_linear, centred, from_linear, norm_affine, scaled
from .norm import ScaledLayerNorm, UnitNorm
from .pool import AttentionPool
from .rope import HalfRotation

INPUT_RANGES: Mapping[str, tuple[float, float]] = {
    "-1..1": (1.0, 0.0),
    "0..1": (2.0, -1.0),
    "0..255": (2.0 / 255.0, -1.0),
}
"""Pixel range -> (factor, offset) that takes it to the [-1, 1] the towers were trained on."""

INPUT_LAYOUTS = ("nchw", "nhwc")


class UnsupportedTowerError(ValueError):
    """The tower has a part that no rewrite covers; the message names the module."""


@dataclass(frozen=True)
class Scales:
    """Powers of two that keep fp16 reductions in range; none of them changes the result. Where they come from:
    docs/numerics.md.

    stem: carried by the patch embedding, for norm_pre. stream: by the residual stream. gains: a norm's own further
    factor, by module name (`blocks.0.norm1`). pool: by the pooled row. head: by the embedding before it is normalised.
    """

    stem: float = 1.0
    stream: float = 1.0 / 32
    gains: Mapping[str, float] = field(default_factory=dict)
    pool: float = 1.0 / 32
    head: float = 1.0


class Stem(nn.Module):
    """Image to the first residual stream: patch embedding, class token and positions, norm_pre."""

    table: Tensor

    def __init__(self, model: Any, scales: Scales, layout: str, pixel_range: str, dtype: torch.dtype):
        super().__init__()
        self.nhwc = layout == "nhwc"
        conv = model.patch_embed.proj
        plain_norm = isinstance(model.norm_pre, nn.Identity)
        scale = scales.stream if plain_norm else scales.stem

        factor, offset = INPUT_RANGES[pixel_range]
        kernel = conv.weight.detach().double()
        bias = offset * kernel.sum((1, 2, 3)) + (0.0 if conv.bias is None else conv.bias.detach().double())
        rows, bias = centred(Affine(kernel.flatten(1) * factor * scale, bias * scale))

        prefix = [t.detach().double() for t in (model.cls_token, model.reg_token) if t is not None]
        self.prefix: int = model.num_prefix_tokens
        patches: int = model.patch_embed.num_patches
        table = torch.cat([*prefix, kernel.new_zeros(1, patches, kernel.shape[0])], 1)
        if model.pos_embed is not None:
            positions = model.pos_embed.detach().double()
            table = table + F.pad(positions, (0, 0, table.shape[1] - positions.shape[1], 0))
        table = (table - table.mean(-1, keepdim=True)) * scale
        table[:, self.prefix :] += bias  # one ADD for position, class token and the convolution's bias

        self.conv = nn.Conv2d(3, kernel.shape[0], conv.kernel_size, conv.stride, bias=False, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.copy_(rows.reshape(kernel.shape))
        self.conv.requires_grad_(False)
        self.register_buffer("table", table[:, None].to(dtype))

        self.norm_pre: ScaledLayerNorm | None = None
        if not plain_norm:
            weight, bias = norm_affine(model.norm_pre)
            self.norm_pre = stream_norm(model, "norm_pre", scales, dtype, scale=scale)
            self.register_buffer("weight", (weight * scales.stream).to(dtype))
            self.register_buffer("bias", ((bias - bias.mean()) * scales.stream).to(dtype))

    def forward(self, image: Tensor) -> Tensor:
        """`[1, 3, H, W]` or `[1, H, W, 3]` -> `[1, 1, N, C]`."""
        if self.nhwc:
            image = image.permute(0, 3, 1, 2)
        patches = self.conv(image).permute(0, 2, 3, 1)
        x = patches.reshape(patches.shape[0], 1, -1, patches.shape[-1])
        if self.prefix:
            x = F.pad(x, (0, 0, self.prefix, 0))
        x = x + self.table
        if self.norm_pre is not None:
            x = self.norm_pre(x) * self.weight
            x = x - x.mean(-1, keepdim=True) + self.bias
        return x


class Mlp(nn.Module):
    """Standardised tokens in, the MLP branch's addition to the residual stream out: `[1, 1, N, C]` both."""

    def __init__(self, fc1: nn.Linear, act: nn.Module, fc2: nn.Linear):
        super().__init__()
        self.fc1, self.act, self.fc2 = fc1, act, fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block on the scaled, mean-free stream: `[1, 1, N, C]` -> the same."""

    def __init__(self, norm1: nn.Module, attn: nn.Module, norm2: nn.Module, mlp: nn.Module):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    """Projection to the embedding and its L2 normalisation: `[1, 1, C]` -> `[1, D]`."""

    def __init__(self, proj: nn.Linear):
        super().__init__()
        self.proj, self.normalize = proj, UnitNorm()

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(self.proj(x.flatten(1)))


class Tower(nn.Module):
    """Image `[1, 3, H, W]` (or NHWC) float -> embedding `[1, D]` with L2 norm 1."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], norm: nn.Module, pool: nn.Module, head: nn.Module):
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.norm, self.pool, self.head = norm, pool, head

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.norm(x)))


def rotation(model: Any, dtype: torch.dtype) -> HalfRotation | None:
    """The tower's RoPE tables as timm computed them, or None where it has none."""
    if model.rope is None:
        return None
    sin, cos = model.rope.get_embed().detach().to(dtype).chunk(2, -1)
    return HalfRotation(sin, cos, model.num_prefix_tokens)


def branch_out(linear: nn.Linear, gamma: Tensor | None, stream: float) -> Affine:
    """A residual branch's last Linear: LayerScale folded in, centred over its output channels, carrying the stream's
    scale."""
    out = from_linear(linear)
    return scaled(centred(out if gamma is None else scaled(out, gamma)), stream)


def token_count(model: Any) -> int:
    """N: patches, class token and registers."""
    return model.num_prefix_tokens + model.patch_embed.num_patches


def stream_norm(
    model: Any,
    name: str,
    scales: Scales,
    dtype: torch.dtype,
    keep_weight: bool = False,
    scale: float | None = None,
) -> ScaledLayerNorm:
    """The rewrite of the LayerNorm called `name` in the model, for the residual stream (or another tensor that carries
    `scale`)."""
    norm = model.get_submodule(name)
    eps: float = norm.eps
    rows = (1, 1, token_count(model), 1)
    weight = norm_affine(norm)[0] if keep_weight else None
    return ScaledLayerNorm(
        eps, scale or scales.stream, scales.gains.get(name, 1.0), rows=rows, weight=weight, dtype=dtype
    )


def rewrite_block(
    model: Any,
    index: int,
    rope: nn.Module | None,
    scales: Scales,
    dtype: torch.dtype = torch.float32,
    keep_norm_weights: bool = False,
) -> Block:
    """Block `index` of a timm tower -> `Block`. Apart from the rest of the tower, so that a large one can be checked
    block by block."""
    name = f"blocks.{index}"
    block = model.get_submodule(name)
    check_block(block, name)
    attn, mlp = block.attn, block.mlp
    out = as_linear(branch_out(attn.proj, block.gamma_1, scales.stream), dtype)
    fc1 = as_linear(after_norm(from_linear(mlp.fc1), block.norm2, keep_norm_weights), dtype)
    fc2 = as_linear(branch_out(mlp.fc2, block.gamma_2, scales.stream), dtype)
    return Block(
        stream_norm(model, f"{name}.norm1", scales, dtype, keep_norm_weights),
        Attention(attn, block.norm1, rope, out, dtype, keep_norm_weights),
        stream_norm(model, f"{name}.norm2", scales, dtype, keep_norm_weights),
        Mlp(fc1, nn.GELU(), fc2),
    )


def rewrite_tail(
    model: Any, scales: Scales, dtype: torch.dtype = torch.float32, keep_norm_weights: bool = False
) -> tuple[ScaledLayerNorm, AttentionPool, Head]:
    """What follows the blocks: final norm, attention pooling, projection."""
    head = scaled(from_linear(model.head), scales.head)
    return (
        stream_norm(model, "norm", scales, dtype, keep_norm_weights),
        AttentionPool(model.attn_pool, model.norm, scales.pool, dtype, keep_norm_weights),
        Head(as_linear(Affine(head.weight / scales.pool, head.bias), dtype)),
    )


def rewrite(
    model: Any,
    scales: Scales | None = None,
    *,
    input_layout: str = "nchw",
    input_range: str = "-1..1",
    dtype: torch.dtype = torch.float32,
    keep_norm_weights: bool = False,
) -> Tower:
    """Rewrite a timm `Eva` tower with attention pooling so that ML Drift runs every op of it.

    The folding is done in float64 whatever the model's dtype, and cast once to `dtype`; the model itself is not
    touched.

    `keep_norm_weights` leaves each LayerNorm's weight in the graph, as one MUL. int8 wants that: a trained LayerNorm's
    weight is small on the channels of massive activations and large on the others, so what it makes spreads evenly over
    a token's 256 steps; without it those few channels take all the steps. fp16 has an exponent and does not care.

    Raises:
        UnsupportedTowerError: a part of the tower that no rewrite covers, by module name.
    """
    scales = scales or Scales()
    check_tower(model)
    rope = rotation(model, dtype)
    blocks = [rewrite_block(model, i, rope, scales, dtype, keep_norm_weights) for i in range(len(model.blocks))]
    stem = Stem(model, scales, input_layout, input_range, dtype)
    return Tower(stem, blocks, *rewrite_tail(model, scales, dtype, keep_norm_weights)).eval()


def _require(condition: bool, module: str, what: str) -> None:
    if not condition:
        raise UnsupportedTowerError(f"{module}: {what} has no rewrite")


def _require_gelu(act: nn.Module, module: str) -> None:
    _require(isinstance(act, nn.GELU) and act.approximate == "none", module, str(act))


def _require_layer_norm(norm: nn.Module, module: str) -> None:
    _require(isinstance(norm, nn.LayerNorm), module, type(norm).__name__)


def check_block(block: Any, name: str) -> None:
    """Raise `UnsupportedTowerError` for a block that is not pre-norm attention + plain MLP."""
    parts = dict(block.named_modules())
    _require("attn" in parts and hasattr(block, "gamma_1"), name, f"a {type(block).__name__}")
    attn, mlp = parts["attn"], parts["mlp"]
    _require(
        type(mlp).__name__ == "Mlp" and isinstance(mlp.norm, nn.Identity),
        f"{name}.mlp",
        f"{type(mlp).__name__} or a norm in it",
    )
    _require_gelu(mlp.act, f"{name}.mlp.act")
    for norm in ("norm1", "norm2"):
        _require_layer_norm(getattr(block, norm), f"{name}.{norm}")
    _require(isinstance(attn.q_norm, nn.Identity), f"{name}.attn.q_norm", "a norm on q and k")
    _require(isinstance(attn.norm, nn.Identity), f"{name}.attn.norm", "a norm on the attention's output")
    _require(getattr(attn, "gate", None) is None, f"{name}.attn.gate", "gated attention")
    _require(getattr(attn, "num_kv_groups", 1) == 1, f"{name}.attn", "grouped-query attention")


def check_tower(model: Any) -> None:
    """Raise `UnsupportedTowerError` for what `rewrite` does not cover outside the blocks."""
    _require(type(model).__name__ == "Eva", type(model).__name__, "a model that is not timm's Eva")
    pool = model.attn_pool
    _require(pool is not None, "attn_pool", f"global_pool={model.global_pool!r}")
    _require(pool.latent_len == 1, "attn_pool", f"{pool.latent_len} latents")
    _require(pool.pos_embed is None, "attn_pool.pos_embed", "a position embedding in the pool")
    _require(isinstance(pool.k_norm, nn.Identity), "attn_pool.k_norm", "a norm on q and k")
    _require(isinstance(pool.proj, nn.Linear) and pool.mlp is not None, "attn_pool", "a pool without projection or MLP")
    _require_layer_norm(pool.norm, "attn_pool.norm")
    _require_gelu(pool.mlp.act, "attn_pool.mlp.act")
    _require_layer_norm(model.norm, "norm")
    if not isinstance(model.norm_pre, nn.Identity):
        _require_layer_norm(model.norm_pre, "norm_pre")
    channels = model.patch_embed.proj.in_channels
    _require(channels == 3, "patch_embed", f"an image of {channels} channels")
    _require(not model.dynamic_img_size, "patch_embed", "a dynamic image size")
    _require(isinstance(model.head, nn.Linear), "head", "a tower without a projection")
    _require(isinstance(model.fc_norm, nn.Identity), "fc_norm", "a norm after pooling")
    _require(not getattr(model, "rope_mixed", False), "rope", "mixed RoPE")
    if model.rope is not None:
        _require(not model.rope.rotate_half, "rope", "half-rotation RoPE")
