"""The rewritten tower: timm's vision tower without what the delegate can't do, same numbers.

The residual stream is [B, 1, N, C], carries the power of two `Scales.stream` and has no mean over channels (`norm.py`
says why); the weights of its producers (patch embedding or norm_pre, every attn.proj and mlp.fc2, LayerScale in them)
see to both. It keeps its mean where something other than a LayerNorm reads it: outputs that show it (`output.py`),
RMSNorms, and the Linears of post-norm blocks (`post_norm.py`). Each rewrite is in a file of its own; this one decides
what is folded where.

Nothing here is special to the Perception Encoder: any timm `Eva` tower goes through, pre-norm or post-norm, with GELU
or gated MLPs, any RoPE or none; and timm's plain `VisionTransformer` with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, InnerNorms
from .fold import Affine, after_norm, as_linear, centred, from_linear, norm_affine, scaled
from .norm import ScaledLayerNorm, UnitNorm, carried_factor, leaves_mean
from .output import FeatureMap, Output, PooledRow
from .pool import AttentionPool, MeanPool, TokenPool
from .post_norm import BranchNorm, PostNormBlock, reads_scaled
from .qk_norm import NormedHeads
from .rope import HalfRotation

INPUT_RANGES: Mapping[str, tuple[float, float]] = {
    "-1..1": (1.0, 0.0),
    "0..1": (2.0, -1.0),
    "0..255": (2.0 / 255.0, -1.0),
}
"""Pixel range -> (factor, offset) that takes it to [-1, 1]."""


@dataclass(frozen=True)
class PixelRange:
    """What range of pixels a graph is given, and how the tower wants them normalised: (p - mean) / std, channel by
    channel, of p in 0..1. All of it goes into the patch embedding; with 0.5 for both the tower takes [-1, 1]."""

    name: str = "-1..1"
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and offset `[3]` float64 that take the graph's pixels to the tower's."""
        factor, offset = INPUT_RANGES[self.name]
        mean, std = (torch.tensor(t, dtype=torch.float64) for t in (self.mean, self.std))
        return factor * 0.5 / std, (offset * 0.5 + 0.5 - mean) / std

    def to_tower(self, image: Tensor) -> Tensor:
        """An image `[n, 3, H, W]` in the graph's range as the tower itself takes it."""
        factor, offset = (t.to(image.dtype)[:, None, None] for t in self.affine())
        return image * factor + offset


INPUT_LAYOUTS = ("nchw", "nhwc")

INNER_NORMS = (".attn.qk_norm.norm", ".attn.norm", ".mlp.norm", ".attn_norm.norm", ".mlp_norm.norm")
"""How the names of norms end that read no residual stream but what weights just before them scale at no cost."""


class UnsupportedTowerError(ValueError):
    """The tower has a part that no rewrite covers; the message names the module."""


@dataclass(frozen=True)
class Scales:
    """Powers of two that keep fp16 reductions in range; none of them changes the result. Where they come from:
    docs/numerics.md.

    stem: carried by the patch embedding, for norm_pre (without one, it carries `stream`). stream: by the residual
    stream. gains: a norm's own further
    factor, by its module name in the rewritten tower (`blocks.0.norm1`); of norms inside a branch (`INNER_NORMS`), the
    weights before them carry it. pool: by the pooled row. head: by the embedding before it is normalised.
    """

    stem: float = 1.0
    stream: float = 1.0 / 32
    gains: Mapping[str, float] = field(default_factory=dict)
    pool: float = 1.0 / 32
    head: float = 1.0


class Stem(nn.Module):
    """Image to the first residual stream: patch embedding, class token and positions, norm_pre.

    centre: take the stream's mean over channels out.
    """

    table: Tensor

    def __init__(
        self,
        model: Any,
        scales: Scales,
        layout: str,
        pixel_range: str | PixelRange,
        dtype: torch.dtype,
        centre: bool = True,
    ):
        super().__init__()
        self.nhwc, self.centre = layout == "nhwc", centre
        conv = model.patch_embed.proj
        plain_norm = isinstance(model.norm_pre, nn.Identity)
        scale = scales.stream if plain_norm else scales.stem

        pixels = PixelRange(pixel_range) if isinstance(pixel_range, str) else pixel_range
        factor, offset = (t[:, None, None] for t in pixels.affine())
        kernel = conv.weight.detach().double()
        bias = (offset * kernel).sum((1, 2, 3)) + (0.0 if conv.bias is None else conv.bias.detach().double())
        centre_here = centre or not plain_norm  # norm_pre ignores the mean, whoever reads the stream
        patch = Affine((kernel * factor).flatten(1) * scale, bias * scale)
        rows, bias = centred(patch) if centre_here else patch

        prefix = [t.detach().double() for t in (model.cls_token, model.reg_token) if t is not None]
        self.prefix: int = model.num_prefix_tokens
        patches: int = model.patch_embed.num_patches
        table = torch.cat([*prefix, kernel.new_zeros(1, patches, kernel.shape[0])], 1)
        if model.pos_embed is not None:
            positions = model.pos_embed.detach().double()
            table = table + F.pad(positions, (0, 0, table.shape[1] - positions.shape[1], 0))
        table = (table - table.mean(-1, keepdim=True) if centre_here else table) * scale
        table[:, self.prefix :] += bias  # one ADD for position, class token and the convolution's bias

        self.conv = nn.Conv2d(3, kernel.shape[0], conv.kernel_size, conv.stride, bias=False, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.copy_(rows.reshape(kernel.shape))
        self.conv.requires_grad_(False)
        self.register_buffer("table", table[:, None].to(dtype))

        self.norm_pre: ScaledLayerNorm | None = None
        if not plain_norm:
            weight, bias = norm_affine(model.norm_pre)
            self.norm_pre = stream_norm(model, "norm_pre", Form(scales, dtype), scale)
            self.register_buffer("weight", (weight * scales.stream).to(dtype))
            self.register_buffer("bias", ((bias - bias.mean() if centre else bias) * scales.stream).to(dtype))

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 3, H, W]` or `[B, H, W, 3]` -> `[B, 1, N, C]`."""
        if self.nhwc:
            image = image.permute(0, 3, 1, 2)
        patches = self.conv(image).permute(0, 2, 3, 1)
        x = patches.reshape(patches.shape[0], 1, -1, patches.shape[-1])
        if self.prefix:
            x = F.pad(x, (0, 0, self.prefix, 0))
        x = x + self.table
        if self.norm_pre is not None:
            x = self.norm_pre(x) * self.weight
            x = (x - x.mean(-1, keepdim=True) if self.centre else x) + self.bias
        return x


class Mlp(nn.Module):
    """Standardised tokens in, the MLP branch's addition to the residual stream out: `[B, 1, N, C]` both."""

    def __init__(self, fc1: nn.Linear, act: nn.Module, fc2: nn.Linear, norm: nn.Module | None = None):
        super().__init__()
        self.fc1, self.act, self.fc2, self.norm = fc1, act, fc2, norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.fc2(x if self.norm is None else self.norm(x))


class GatedMlp(nn.Module):
    """SwiGLU: fc2(silu(gate(x)) * value(x)), as `Mlp`. timm packs gate and value into one Linear or has two.

    A norm between (EVA-02) squares that product over all hidden channels, which passes fp16's 65504 sooner than the
    residual stream does. The power of two that fits is in `value`'s rows: silu(g) * (s * v) = s * (silu(g) * v).
    """

    def __init__(self, gate: nn.Linear, value: nn.Linear, fc2: nn.Linear, norm: nn.Module | None = None):
        super().__init__()
        self.gate, self.value, self.act, self.fc2, self.norm = gate, value, nn.SiLU(), fc2, norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.gate(x)) * self.value(x)
        return self.fc2(x if self.norm is None else self.norm(x))


class Block(nn.Module):
    """A pre-norm transformer block on the scaled, mean-free stream: `[B, 1, N, C]` -> the same."""

    def __init__(self, norm1: nn.Module, attn: nn.Module, norm2: nn.Module, mlp: nn.Module):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    """Projection to the embedding and its L2 normalisation, or to logits: `[B, 1, C]` -> `[B, D]`.

    proj: of rows `[B, C]`; a `PooledRow` where the tower has no projection.
    """

    def __init__(self, proj: nn.Module, unit: bool = True):
        super().__init__()
        self.proj, self.normalize = proj, UnitNorm() if unit else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.normalize(self.proj(x.flatten(1)))


class Tower(nn.Module):
    """Image `[B, 3, H, W]` (or NHWC) float -> what its `Output` says: a tensor, or a tuple of two.

    Args:
        norm, pool, fc_norm, head: what follows the blocks, in this order; None where the output does without.
        features: makes the map of patch tokens, or None.
        layer: index of the block that `features` reads, raw; None for what leaves `norm`.
    """

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        pool: nn.Module | None = None,
        head: nn.Module | None = None,
        *,
        fc_norm: nn.Module | None = None,
        features: nn.Module | None = None,
        layer: int | None = None,
    ):
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.norm, self.pool, self.fc_norm, self.head = norm, pool, fc_norm, head
        self.features, self.layer = features, layer

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.stem(image)
        shown = None
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self.layer:
                shown = x
        return self.end(x, shown)

    def end(self, x: Tensor, shown: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """The outputs, from the residual stream after the last block, and after `layer`."""
        x = self.norm(x)
        out = []
        if self.pool is not None and self.head is not None:
            pooled = self.pool(x)
            out.append(self.head(pooled if self.fc_norm is None else self.fc_norm(pooled)))
        if self.features is not None:
            out.append(self.features(x if shown is None else shown))
        return out[0] if len(out) == 1 else tuple(out)


def rope_table(model: Any) -> Tensor | None:
    """timm's RoPE table for the model's image size, sines and cosines side by side: `[patches, 2 * d]`, or
    `[depth, heads, patches, 2 * d]` of mixed RoPE; None where the tower has none. A tower that takes images of any size
    (`dynamic_img_size`) gets the table of the size that it was built with."""
    if getattr(model, "rope", None) is None:
        return None
    table: Tensor = model.rope.get_embed(shape=model.patch_embed.grid_size if model.dynamic_img_size else None)
    return table.detach()


def rotations(model: Any, dtype: torch.dtype) -> list[HalfRotation | None]:
    """The rotation of each block: one for all of them, but with mixed RoPE."""
    table, depth = rope_table(model), len(model.blocks)
    if table is None:
        return [None] * depth

    def rotation(table: Tensor) -> HalfRotation:
        sin, cos = table.to(dtype).chunk(2, -1)
        return HalfRotation(sin, cos, model.num_prefix_tokens, getattr(model.rope, "rotate_half", False))

    return [rotation(table)] * depth if table.ndim == 2 else [rotation(t) for t in table]


def branch_out(out: Affine, gamma: Tensor | None, stream: float, centre: bool = True) -> Affine:
    """A residual branch's last Linear: LayerScale folded in, centred over its output channels (unless the stream keeps
    its mean), carrying the stream's scale."""
    out = out if gamma is None else scaled(out, gamma)
    return scaled(centred(out) if centre else out, stream)


def mean_free(model: Any, output: Output) -> bool:
    """The residual stream has no mean over channels, because LayerNorms alone read it."""
    norms = [model.norm, model.fc_norm, *(norm for b in model.blocks for norm in (b.norm1, b.norm2))]
    rms = any(type(norm).__name__ == "RmsNorm" for norm in norms)
    return not (rms or post_norm(model) or output.exposes_residual(model))


def post_norm(model: Any) -> bool:
    """Whether the blocks normalise what their branches give instead of what they read."""
    return type(model.blocks[0]).__name__ == "EvaBlockPostNorm"


def layer_scaled(model: Any) -> bool:
    """Whether a LayerScale is folded into what writes to the residual stream."""
    return any(layer_scale(block, branch) is not None for block in model.blocks for branch in (1, 2))


def layer_scale(block: Any, branch: int) -> Tensor | None:
    """The LayerScale `[C]` of a block's attention (1) or MLP (2): `gamma_1` in timm's Eva, `ls1.gamma` in its ViT."""
    gamma = getattr(block, f"gamma_{branch}", None)
    return getattr(getattr(block, f"ls{branch}", None), "gamma", None) if gamma is None else gamma


@dataclass(frozen=True)
class Form:
    """What every part of one tower is rewritten with. keep_norm_weights: see `rewrite`. centre: the residual stream has
    no mean over channels."""

    scales: Scales
    dtype: torch.dtype = torch.float32
    keep_norm_weights: bool = False
    centre: bool = True


def stream_norm(model: Any, name: str, form: Form, scale: float | None = None) -> ScaledLayerNorm:
    """The rewrite of the norm called `name` in the model, for the residual stream (or another tensor that carries
    `scale`)."""
    return _norm(model, name, scale or form.scales.stream, form.scales.gains.get(name, 1.0), form, form.centre)


def rewrite_block(model: Any, index: int, rope: nn.Module | None, form: Form) -> Block | PostNormBlock:
    """Block `index` of a timm tower -> `Block`. Apart from the rest of the tower, so that a large one can be checked
    block by block."""
    name = f"blocks.{index}"
    block = model.get_submodule(name)
    check_block(block, name)
    if post_norm(model):
        return rewrite_post_norm_block(model, name, rope, form)
    attn, mlp, stream = block.attn, block.mlp, form.scales.stream
    out = as_linear(branch_out(attention_out(attn, form), layer_scale(block, 1), stream, form.centre), form.dtype)
    fc1 = [after_norm(part, block.norm2, form.keep_norm_weights) for part in mlp_inputs(mlp)]
    fc2 = branch_out(from_linear(mlp.fc2), layer_scale(block, 2), stream, form.centre)
    return Block(
        stream_norm(model, f"{name}.norm1", form),
        Attention(
            attn, block.norm1, rope, out, form.dtype, form.keep_norm_weights, attention_norms(model, name, rope, form)
        ),
        stream_norm(model, f"{name}.norm2", form),
        rewrite_mlp(model, name, fc1, fc2, form),
    )


def rewrite_post_norm_block(model: Any, name: str, rope: nn.Module | None, form: Form) -> PostNormBlock:
    """The same of a post-norm block: what reads the stream divides its scale out, what writes to it is a norm."""
    block = model.get_submodule(name)
    attn, mlp, dtype, stream = block.attn, block.mlp, form.dtype, form.scales.stream

    def branch(linear: Affine, norm: Any, norm_name: str) -> tuple[Affine, BranchNorm]:
        factor = form.scales.gains.get(f"{name}.{norm_name}.norm", 1.0)
        out = branch_out(linear, None, carried_factor(factor), isinstance(norm, nn.LayerNorm))
        return out, BranchNorm(norm, factor, stream, dtype)

    out, attn_norm = branch(attention_out(attn, form), block.norm1, "attn_norm")
    fc2, mlp_norm = branch(from_linear(mlp.fc2), block.norm2, "mlp_norm")
    inner = attention_norms(model, name, rope, form)
    attention = Attention(attn, nn.Identity(), rope, as_linear(out, dtype), dtype, inner=inner)
    fc1 = [reads_scaled(part, stream) for part in mlp_inputs(mlp)]
    attention.qkv = as_linear(reads_scaled(from_linear(attention.qkv), stream), dtype)
    return PostNormBlock(attention, attn_norm, rewrite_mlp(model, name, fc1, fc2, form), mlp_norm)


def attention_out(attention: Any, form: Form) -> Affine:
    """The output projection, with the affine part of the norm before it, where there is one."""
    return after_norm(from_linear(attention.proj), attention.norm, form.keep_norm_weights)


def attention_norms(model: Any, name: str, rope: nn.Module | None, form: Form) -> InnerNorms:
    """The norms inside the attention of the block called `name`."""
    attention, gains = model.get_submodule(name).attn, form.scales.gains
    qk = out = None
    if not isinstance(attention.q_norm, nn.Identity):
        baked = rope is not None and not getattr(rope, "keeps_order", False)
        factor = gains.get(f"{name}.attn.qk_norm.norm", 1.0)
        qk = NormedHeads(attention, factor, baked, form.dtype)
    if not isinstance(attention.norm, nn.Identity):
        factor = gains.get(f"{name}.attn.norm", 1.0)
        out = inner_norm(model, f"{name}.attn.norm", factor, carried_factor(factor), form)
    return InnerNorms(qk, out)


def inner_norm(model: Any, name: str, factor: float, carried: float, form: Form) -> ScaledLayerNorm:
    """The norm called `name` inside a branch, whose input carries `carried` of its power of two `factor`."""
    return _norm(model, name, carried, factor / carried, form, mean_free=False)


def _norm(model: Any, name: str, carried: float, gain: float, form: Form, mean_free: bool) -> ScaledLayerNorm:
    norm = model.get_submodule(name)
    weight = norm_affine(norm)[0] if form.keep_norm_weights else None
    centred = leaves_mean(norm, gain, mean_free)
    return ScaledLayerNorm(norm.eps, carried, gain, centred=centred, weight=weight, dtype=form.dtype)


def rewrite_mlp(model: Any, name: str, fc1: list[Affine], fc2: Affine, form: Form) -> Mlp | GatedMlp:
    """The MLP of the block called `name`, its Linears as they are to be but for a norm between them."""
    mlp = model.get_submodule(name).mlp
    norm = None
    if not isinstance(mlp.norm, nn.Identity):
        fc2 = after_norm(fc2, mlp.norm, form.keep_norm_weights)
        factor = form.scales.gains.get(f"{name}.mlp.norm", 1.0)
        carried = carried_factor(factor) if len(fc1) == 2 else 1.0  # nothing can be carried through a GELU
        fc1 = [*fc1[:-1], scaled(fc1[-1], carried)]
        norm = inner_norm(model, f"{name}.mlp.norm", factor, carried, form)
    first, last = [as_linear(part, form.dtype) for part in fc1], as_linear(fc2, form.dtype)
    return Mlp(first[0], nn.GELU(), last, norm) if len(first) == 1 else GatedMlp(first[0], first[1], last, norm)


def mlp_inputs(mlp: Any) -> list[Affine]:
    """What an MLP of timm's does first: one Linear, or a gate and a value."""
    kind = type(mlp).__name__
    if kind == "SwiGLU":
        return [from_linear(mlp.fc1_g), from_linear(mlp.fc1_x)]
    fc1 = from_linear(mlp.fc1)
    if kind == "Mlp":
        return [fc1]
    halves = [Affine(*half) for half in zip(*(t.chunk(2) for t in fc1))]
    return halves[::-1] if mlp.gate_last else halves


def rewrite_tail(model: Any, output: Output, form: Form, channels_last: bool = False) -> dict[str, Any]:
    """What follows the blocks, as `Tower` takes it."""
    depth, scales, keep, dtype = len(model.blocks), form.scales, form.keep_norm_weights, form.dtype
    grid, prefix = model.patch_embed.grid_size, model.num_prefix_tokens
    unnormed = isinstance(model.norm, nn.Identity)
    parts: dict[str, Any] = {"norm": nn.Identity()}
    if not unnormed and (output.has_head or output.is_last_block(depth)):
        parts["norm"] = stream_norm(model, "norm", form)
    if output.has_head:
        carried = scales.stream if unnormed else 1.0  # by what is pooled
        before, kept = model.norm, keep  # the norm whose affine part the head takes
        if model.attn_pool is not None:
            parts["pool"] = AttentionPool(model.attn_pool, model.norm, scales.pool, dtype, keep)
            before, carried = nn.Identity(), scales.pool
        elif model.global_pool == "token":
            parts["pool"] = TokenPool()
        else:
            parts["pool"] = MeanPool(grid, prefix, carried)
        if not isinstance(model.fc_norm, nn.Identity):
            parts["fc_norm"] = stream_norm(model, "fc_norm", form)
            before, carried = model.fc_norm, 1.0
        unit = output.kind != "logits"
        factor = scales.head if unit else 1.0
        if isinstance(model.head, nn.Identity):
            parts["head"] = Head(PooledRow(before, factor / carried, kept, dtype), unit)
        else:
            head = scaled(after_norm(from_linear(model.head), before, kept), factor)
            parts["head"] = Head(as_linear(Affine(head.weight / carried, head.bias), dtype), unit)
    if output.has_features:
        normed = not unnormed and output.is_last_block(depth)
        parts["layer"] = None if output.is_last_block(depth) else output.block(depth)
        norm = model.norm if normed else None
        parts["features"] = FeatureMap(grid, prefix, norm, scales.stream, keep, channels_last, dtype)
    return parts


def default_output(model: Any) -> Output:
    """What a tower is for: with attention pooling the embedding, with another head logits, without any features."""
    if isinstance(model.head, nn.Identity) and model.attn_pool is None:
        return Output("features")
    return Output("logits" if model.attn_pool is None else "embedding")


def rewrite(
    model: Any,
    scales: Scales | None = None,
    *,
    output: Output | None = None,
    input_layout: str = "nchw",
    input_range: str | PixelRange = "-1..1",
    dtype: torch.dtype = torch.float32,
    keep_norm_weights: bool = False,
) -> Tower:
    """Rewrite a timm `Eva` or `VisionTransformer` tower so that ML Drift runs every op of it.

    The folding is done in float64 whatever the model's dtype, and cast once to `dtype`; the model itself is not
    touched. The tower takes images of the model's size in any batch; a graph made from it has the batch of its example.

    `output` says what it returns (`default_output` where None); for features of an earlier block, the blocks after it
    are left out.

    `input_range` is what the graph is given, by name for towers that want [-1, 1] (PE), with their mean and std for
    others.

    `keep_norm_weights` leaves each LayerNorm's weight in the graph, as one MUL. int8 wants that: a trained LayerNorm's
    weight is small on the channels of massive activations and large on the others, so what it makes spreads evenly over
    a token's 256 steps; without it those few channels take all the steps. fp16 has an exponent and does not care.

    Raises:
        UnsupportedTowerError: a part of the tower that no rewrite covers, by module name.
        ValueError: the output asks for a block that is not there.
    """
    parts = rewrite_parts(
        model,
        scales or Scales(),
        output=output,
        input_layout=input_layout,
        input_range=input_range,
        dtype=dtype,
        keep_norm_weights=keep_norm_weights,
    )
    (_, stem), *blocks, (_, tower) = parts
    tower.stem, tower.blocks = stem, nn.ModuleList(block for _, block in blocks)
    return tower.eval()


def rewrite_parts(
    model: Any,
    scales: Scales,
    *,
    output: Output | None = None,
    input_layout: str = "nchw",
    input_range: str | PixelRange = "-1..1",
    dtype: torch.dtype = torch.float32,
    keep_norm_weights: bool = False,
) -> Iterator[tuple[str, Any]]:
    """The parts of `rewrite`'s tower in the order in which they run, each made when it is asked for: `stem`, `blocks.0`
    and so on, by their names in it, and last, under "", a `Tower` without stem and blocks, whose `end` is the rest. So
    a tower that would not fit in memory twice can be run with one block more."""
    check_tower(model)
    output = output or default_output(model)
    check_output(model, output)
    form = Form(scales, dtype, keep_norm_weights, mean_free(model, output))
    yield "stem", Stem(model, scales, input_layout, input_range, dtype, form.centre)
    for i, rope in enumerate(rotations(model, dtype)[: output.blocks(len(model.blocks))]):
        yield f"blocks.{i}", rewrite_block(model, i, rope, form)
    yield "", Tower(nn.Identity(), [], **rewrite_tail(model, output, form, input_layout == "nhwc")).eval()


def _require(condition: bool, module: str, what: str) -> None:
    if not condition:
        raise UnsupportedTowerError(f"{module}: {what} has no rewrite")


def _require_gelu(act: nn.Module, module: str) -> None:
    _require(isinstance(act, nn.GELU) and act.approximate == "none", module, str(act))


def _require_layer_norm(norm: nn.Module, module: str) -> None:
    _require(isinstance(norm, nn.LayerNorm), module, f"a {type(norm).__name__}")


def _require_norm(norm: nn.Module, module: str) -> None:
    known = isinstance(norm, nn.LayerNorm) or type(norm).__name__ == "RmsNorm"
    _require(known, module, f"a {type(norm).__name__}")


def check_block(block: Any, name: str) -> None:
    """Raise `UnsupportedTowerError` for a block that is not attention and MLP, each on the residual stream."""
    kinds = ("EvaBlock", "EvaBlockPostNorm", "Block")
    _require(type(block).__name__ in kinds, name, f"a {type(block).__name__}")
    attn, mlp = block.attn, block.mlp
    kind = type(mlp).__name__
    _require(kind in ("Mlp", "GluMlp", "SwiGLU"), f"{name}.mlp", f"a {kind}")
    if kind == "Mlp":
        _require_gelu(mlp.act, f"{name}.mlp.act")
    else:
        _require(isinstance(mlp.act, nn.SiLU), f"{name}.mlp.act", str(mlp.act))
    for norm_name in ("norm1", "norm2"):
        _require_norm(getattr(block, norm_name), f"{name}.{norm_name}")
    for branch in ("attn", "mlp"):
        if not isinstance(norm := getattr(block, branch).norm, nn.Identity):
            _require_norm(norm, f"{name}.{branch}.norm")
    if not isinstance(attn.q_norm, nn.Identity):
        _require_norm(attn.q_norm, f"{name}.attn.q_norm")
        alike = type(attn.k_norm) is type(attn.q_norm) and attn.k_norm.eps == attn.q_norm.eps
        _require(alike, f"{name}.attn.k_norm", "a norm on k that is not q's kind, or not its eps,")
    _require(getattr(attn, "gate", None) is None, f"{name}.attn.gate", "gated attention")


def check_tower(model: Any) -> None:
    """Raise `UnsupportedTowerError` for what `rewrite` does not cover outside the blocks, whatever the output."""
    kinds = ("Eva", "VisionTransformer")
    _require(type(model).__name__ in kinds, type(model).__name__, "a model that is neither timm's Eva nor its ViT")
    _require(type(model.patch_embed).__name__ == "PatchEmbed", "patch_embed", f"a {type(model.patch_embed).__name__}")
    _require(isinstance(model.patch_embed.norm, nn.Identity), "patch_embed.norm", "a norm on patches")
    if not isinstance(model.norm_pre, nn.Identity):
        _require_layer_norm(model.norm_pre, "norm_pre")
    for name in ("norm", "fc_norm"):
        if not isinstance(norm := model.get_submodule(name), nn.Identity):
            _require_norm(norm, name)
    channels = model.patch_embed.proj.in_channels
    _require(channels == 3, "patch_embed", f"an image of {channels} channels")
    _require(not model.patch_embed.dynamic_img_pad, "patch_embed", "padding to whole patches (dynamic_img_pad)")
    if getattr(model, "rope", None) is not None:
        _require(hasattr(model.rope, "feat_shape"), "rope", f"a {type(model.rope).__name__}")


def check_output(model: Any, output: Output) -> None:
    """Raise `UnsupportedTowerError` for what pooling and head have that `rewrite` does not cover, where `output` needs
    them; ValueError for a block that is not there."""
    if output.has_features:
        output.block(len(model.blocks))
    if not output.has_head:
        return
    pool = model.attn_pool
    headless = isinstance(model.head, nn.Identity)
    _require(isinstance(model.head, nn.Linear) or headless, "head", f"a {type(model.head).__name__}")
    _require(not (headless and output.kind == "logits"), "head", "a classifier that is not there")
    both = not isinstance(model.norm, nn.Identity) and not isinstance(model.fc_norm, nn.Identity)
    _require(not both, "fc_norm", "a norm behind a norm")
    if model.num_prefix_tokens and model.global_pool in ("avg", "map"):  # Eva averages patches and attends to all
        with_prefix = getattr(model, "pool_include_prefix", model.global_pool == "map")
        what = "with" if with_prefix else "without"
        _require(with_prefix == (model.global_pool == "map"), "pool", f"{model.global_pool} pooling {what} class token")
    if pool is None:
        _require(model.global_pool in ("avg", "token"), "attn_pool", f"global_pool={model.global_pool!r}")
        return
    _require(pool.latent_len == 1, "attn_pool", f"{pool.latent_len} latents")
    _require(pool.pos_embed is None, "attn_pool.pos_embed", "a position embedding in the pool")
    _require(isinstance(pool.k_norm, nn.Identity), "attn_pool.k_norm", "a norm on q and k")
    _require(isinstance(pool.proj, nn.Linear) and pool.mlp is not None, "attn_pool", "a pool without projection or MLP")
    _require_layer_norm(pool.norm, "attn_pool.norm")
    _require_gelu(pool.mlp.act, "attn_pool.mlp.act")
    _require_norm(model.norm, "norm")
    _require(isinstance(model.fc_norm, nn.Identity), "fc_norm", "a norm after pooling")
