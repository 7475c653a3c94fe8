"""Gate 5: how far each reduction is from what fp16 can hold, measured in PyTorch, and the scales that follow.

ML Drift sums in fp16: past 65504 a sum is inf. On the other side, squares below 6.1e-5 lose bits and below 6e-8 are
zero. The towers' reductions are the LayerNorms' sums of squares, every Linear and matrix product, the sums of mean
pooling and the L2 norm of the embedding; the residual stream, features and gated products have to fit as well.
`measure` records the largest value of each over the images given, and for the norms also the smallest mean of squares
over tokens; `Reduction.largest` is that value *as the graph forms it*, with the scale it carries.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pecore.rewrites.attention import Attention
from pecore.rewrites.matmul import MatMul
from pecore.rewrites.norm import LEAST_CARRIED, ScaledLayerNorm, UnitNorm, carried_factor
from pecore.rewrites.output import FeatureMap, Output
from pecore.rewrites.pool import MeanPool
from pecore.rewrites.post_norm import PostNormBlock
from pecore.rewrites.text import TextTower, rewrite_text_parts
from pecore.rewrites.tower import INNER_NORMS, Block, GatedMlp, Scales, Tower, default_output, rewrite_parts
from pecore.validate.checks import Check

FP16_MAX = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14

ENOUGH = 4.0
"""Headroom every reduction must keep on the images measured: other images go higher (4x in a sum of squares is 2x in
amplitude)."""

STREAM_SCALES = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
"""What the residual stream's scale is chosen from (`stream_scale`). `attn.proj` and `mlp.fc2` carry it in their
weights: the larger it is, the fewer of them are subnormal in fp16 and lost on a GPU that flushes those. Below 1/32 most
would be, so norms that are louder still get a gain below 1 of their own, which costs a MUL each (docs/numerics.md)."""

COMFORTABLE_SUM = 1024.0
"""What the scales of a single tensor (stem, pool, head) aim for: 64x of headroom above, room for small elements
below."""

QUIET = 4 * FP16_SMALLEST_NORMAL
"""A norm whose quietest token has a smaller mean of squares gets a gain of its own: much below, its squares are
subnormal."""


UNSCALED = frozenset({"mean", "gate", "features"})
"""Kinds of which no scale can be chosen."""

PRODUCTS = (MatMul, nn.Conv2d, nn.Linear)
BRANCH_ENDS = ("attn.proj", "mlp.fc2")


@dataclass(frozen=True)
class Reduction:
    """One reduction of the tower, the extremes over all tokens and images measured.

    kind: `layernorm` and `l2` (sums of squares), `linear` and `matmul` (their outputs), `mean` (the sums in mean
    pooling), `stream` (the residual stream after a block), `gate` (a gated MLP's products), `features` (a feature map
    that leaves the graph). scale: power of two that the summed terms carry in the graph. unscaled: the largest sum, or
    |output|, without it. smallest: the smallest mean of squares over tokens, unscaled (norms; else NaN). peak: largest
    |element|, unscaled, of what a norm reads or a product gives.
    """

    name: str
    kind: str
    scale: float
    unscaled: float
    smallest: float
    peak: float

    @property
    def largest(self) -> float:
        """The largest value as the graph forms it."""
        return self.unscaled * (self.scale**2 if self.kind in ("layernorm", "l2") else self.scale)

    @property
    def headroom(self) -> float:
        """fp16's maximum over the largest value; below 1 it overflows. Of features the square of that, as if they were
        summed squares: what `ENOUGH` asks of them is 2x in amplitude, as of the norms that read the same stream."""
        ratio = FP16_MAX / self.largest if self.largest > 0 else math.inf
        return ratio**2 if self.kind == "features" else ratio

    def as_dict(self) -> dict[str, Any]:
        smallest = None if math.isnan(self.smallest) else self.smallest
        return vars(self) | {"smallest": smallest, "largest": self.largest, "headroom": self.headroom}


def headroom_gate(reductions: Sequence[Reduction], scales: Scales) -> Check:
    """Gate 5: every reduction of a tower rewritten with `scales` keeps its distance from fp16's maximum."""
    tightest = min_headroom(reductions)
    figures = {
        "headroom": tightest.headroom,
        "reduction": tightest.name,
        "scales": asdict(scales),
        "reductions": [r.as_dict() for r in reductions],
    }
    detail = f"least headroom {tightest.headroom:.3g}x ({tightest.name}), residual stream x {Fraction(scales.stream)}"
    return Check("headroom", "tower", "PyTorch fp32", "passed", detail).measured(figures, {"headroom": ENOUGH})


def measure(tower: nn.Module, scales: Scales, images: Sequence[Tensor]) -> list[Reduction]:
    """Run the tower, rewritten with `scales`, on `images` (each its input's shape); its reductions, in its order."""
    found: dict[str, Reduction] = {}
    with torch.no_grad(), _watching(tower, "", scales, found):
        for image in images:
            tower(image)
    return [found[name] for name, _ in tower.named_modules() if name in found]


def measure_by_parts(
    model: Any, scales: Scales, images: Sequence[Tensor], output: Output | None = None
) -> list[Reduction]:
    """The same of timm's tower `model` when it is rewritten to give `output`, with one block of the rewritten tower in
    memory at a time."""
    output = output or default_output(model)
    layer = f"blocks.{output.block(len(model.blocks))}" if output.has_features else None
    shown: Sequence[Tensor | None] = [None] * len(images)

    def run(name: str, part: Any, streams: Sequence[Tensor]) -> Sequence[Any]:
        nonlocal shown
        if isinstance(part, Tower):
            return [part.end(s, tapped if part.layer is not None else None) for s, tapped in zip(streams, shown)]
        streams = [part(stream) for stream in streams]
        shown = streams if name == layer else shown
        return streams

    return _measure_parts(rewrite_parts(model, scales, output=output), scales, images, run)


def _measure_parts(
    parts: Iterable[tuple[str, nn.Module]],
    scales: Scales,
    inputs: Sequence[Tensor],
    run: Callable[[str, Any, Sequence[Tensor]], Sequence[Any]],
) -> list[Reduction]:
    """The reductions of a tower's parts; `run` takes a part's name, the part and what the one before it gave."""
    found: dict[str, Reduction] = {}
    streams, order = inputs, []
    for name, part in parts:
        with torch.no_grad(), _watching(part, name, scales, found):
            streams = run(name, part, streams)
        order += [inner for inner, _ in part.named_modules(prefix=name)]
    return [found[name] for name in order if name in found]


def reads_stream(name: str) -> bool:
    """Whether a module called so is a norm of the residual stream."""
    return name in ("norm", "fc_norm") or name.endswith((".norm1", ".norm2"))


def carried(name: str, scales: Scales) -> float:
    """The scale that the terms of a module's reduction carry in a tower rewritten with `scales`."""
    if name in ("stem.conv", "stem.norm_pre"):
        return scales.stem
    if name in ("pool.proj", "pool.fc2", "pool.norm"):
        return scales.pool
    if name.startswith("head."):
        return scales.head
    if reads_stream(name):
        return scales.stream * scales.gains.get(name, 1.0)
    if name.endswith(INNER_NORMS):
        return scales.gains.get(name, 1.0)
    if name.endswith(".mlp.value"):
        return carried_factor(scales.gains.get(f"{name.removesuffix('value')}norm", 1.0))
    if name.endswith(".attn.qkv"):  # the values alone; q and k as they are
        return max(1.0, scales.gains.get(f"{name.removesuffix('qkv')}norm", 1.0))
    return scales.stream if name.endswith((".attn.proj", ".mlp.fc2")) else 1.0


def rescaled(reductions: Sequence[Reduction], scales: Scales) -> list[Reduction]:
    """The same measurements, as a tower rewritten with `scales` forms them."""

    def scale(r: Reduction) -> float:
        if r.kind == "stream":
            return scales.stream
        if r.kind == "mean":
            return 1.0 if r.scale == 1.0 else scales.stream  # of standardised tokens, or of the stream itself
        return r.scale if r.kind in UNSCALED else carried(r.name, scales)

    return [replace(r, scale=scale(r)) for r in reductions]


def stream_scale(reductions: Sequence[Reduction]) -> float:
    """The largest of `STREAM_SCALES` under which every reduction keeps its headroom and no more norms have a gain, for
    a MUL each, than under the smallest; the smallest where there is none."""
    smallest = STREAM_SCALES[-1]
    gains = len(scales_with(reductions, smallest).gains)
    for stream in STREAM_SCALES[:-1]:
        scales = scales_with(reductions, stream)
        if len(scales.gains) <= gains and min_headroom(rescaled(reductions, scales)).headroom >= ENOUGH:
            return stream
    return smallest


def choose_scales(reductions: Sequence[Reduction]) -> Scales:
    """Scales under which each sum of squares that was measured keeps its headroom, no quiet norm's squares vanish, and
    as few weights as possible are subnormal in fp16."""
    return scales_with(reductions, stream_scale(reductions))


def scales_with(reductions: Sequence[Reduction], stream: float) -> Scales:
    """The scales that go with `stream`, the residual stream's."""
    norms = {r.name: r for r in reductions if r.kind == "layernorm"}
    gains = {}
    for r in norms.values():
        if r.name.startswith(("stem.", "pool.")):
            continue
        if r.name.endswith(INNER_NORMS):  # weights carry it down to `LEAST_CARRIED`: for nothing, so go for comfort
            factor = _fitting(r.unscaled, COMFORTABLE_SUM)
            if factor < LEAST_CARRIED:
                factor = min(LEAST_CARRIED, _fitting(r.unscaled, FP16_MAX / ENOUGH))
            gains[r.name] = factor
            continue
        sum_of_squares, quietest = r.unscaled * stream**2, r.smallest * stream**2
        if sum_of_squares > FP16_MAX / ENOUGH:
            gains[r.name] = _fitting(sum_of_squares, FP16_MAX / ENOUGH)
        elif quietest < QUIET and _fitting(sum_of_squares, COMFORTABLE_SUM) > 1:
            gains[r.name] = _fitting(sum_of_squares, COMFORTABLE_SUM)
    head = next((r for r in reductions if r.kind == "l2"), None)
    stem, pool = (norms.get(name) for name in ("stem.norm_pre", "pool.norm"))
    return Scales(
        stem=stream if stem is None else _fitting(stem.unscaled, COMFORTABLE_SUM),
        stream=stream,
        gains=gains,
        pool=1.0 if pool is None else _fitting(pool.unscaled, COMFORTABLE_SUM),
        head=1.0 if head is None else _fitting(head.unscaled, COMFORTABLE_SUM),
    )


def fit_scales(model: Any, images: Sequence[Tensor], output: Output | None = None) -> tuple[Scales, list[Reduction]]:
    """The scales that timm's tower `model` asks for on `images` when it is to give `output`, and its reductions under
    them."""
    # Without norm_pre, what the patch embedding makes is the residual stream.
    first = Scales(stem=Scales.stream) if isinstance(model.norm_pre, nn.Identity) else Scales()
    reductions = measure_by_parts(model, first, images, output)
    scales = choose_scales(reductions)
    return scales, rescaled(reductions, scales)


def fit_text_scales(model: Any, end: int, tokens: Sequence[Tensor]) -> tuple[Scales, list[Reduction]]:
    """The same for open_clip's text tower on ids `[1, N]` int32; `end` is the end-of-text id."""
    first = Scales()

    def run(name: str, part: Any, streams: Sequence[Tensor]) -> Sequence[Tensor]:
        if isinstance(part, TextTower):
            return [part.end(stream, ids) for stream, ids in zip(streams, tokens)]
        return [part(stream) for stream in streams]

    reductions = _measure_parts(rewrite_text_parts(model, first, end), first, tokens, run)
    scales = choose_scales(reductions)
    return scales, rescaled(reductions, scales)


def min_headroom(reductions: Sequence[Reduction]) -> Reduction:
    """The reduction with the least headroom."""
    return min(reductions, key=lambda r: r.headroom)


def _fitting(sum_of_squares: float, limit: float) -> float:
    """The largest power of two by which terms can be scaled so that their sum of squares stays within `limit`."""
    return 2.0 ** math.floor(math.log2(limit / sum_of_squares) / 2) if sum_of_squares > 0 else 1.0


@contextmanager
def _watching(part: nn.Module, prefix: str, scales: Scales, found: dict[str, Reduction]) -> Iterator[None]:
    """Record the reductions of a tower's part, called `prefix` in it, while it runs."""

    def record(
        name: str, kind: str, largest: Tensor, smallest: float, peak: Tensor, scale: float | None = None
    ) -> None:
        scale = carried(name, scales) if scale is None else scale
        power = scale**2 if kind in ("layernorm", "l2") else scale
        new = Reduction(name, kind, scale, float(largest) / power, smallest / power, float(peak) / scale)
        old = found.get(name, new)
        found[name] = Reduction(
            name, kind, scale, max(new.unscaled, old.unscaled), min(new.smallest, old.smallest), max(new.peak, old.peak)
        )

    def on_norm(name: str, module: ScaledLayerNorm, args: tuple[Tensor]) -> None:
        d = module.deviation(args[0])
        sums = d.double().square().sum(-1)
        record(name, "layernorm", sums.max(), float(sums.min()) / d.shape[-1], d.abs().max())

    def on_unit_norm(name: str, module: UnitNorm, args: tuple[Tensor]) -> None:
        record(name, "l2", args[0].double().square().sum(-1).max(), math.nan, args[0].abs().max())

    def on_product(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        kind = "matmul" if isinstance(module, MatMul) else "linear"
        output = output[..., values[name] :] if name in values else output
        record(name, kind, output.abs().max(), math.nan, output.abs().max())

    def on_features(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        record(name, "features", output.abs().max(), math.nan, output.abs().max(), 1.0)

    def on_block(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        record(name, "stream", output.abs().max(), math.nan, output.abs().max(), scales.stream)

    def on_mean(name: str, module: MeanPool, args: tuple[Tensor], output: Tensor) -> None:
        rows = module.rows(args[0])
        sums = (s.abs().max() for s in (rows.sum(2), rows.mean(2).sum(1)))
        record(name, "mean", torch.stack(tuple(sums)).max(), math.nan, rows.abs().max(), module.scale)

    def on_gated(name: str, module: nn.Module, args: tuple[Tensor]) -> None:
        record(name, "gate", args[0].abs().max(), math.nan, args[0].abs().max(), 1.0)

    modules = dict(part.named_modules(prefix=prefix))
    # What a norm inside a branch reads, and it alone, is not recorded: no element is larger than the norm's own sum.
    # Of a projection whose q and k go to norms, that leaves the values.
    gated = {f"{name}.fc2": f"{name}.act" for name, m in modules.items() if isinstance(m, GatedMlp) and m.norm is None}
    into_norms = {f"{n}.{out}" for n, m in modules.items() if isinstance(m, PostNormBlock) for out in BRANCH_ENDS}
    into_norms |= {f"{n}.context" for n, m in modules.items() if isinstance(m, Attention) and m.norm is not None}
    values = {
        f"{name}.qkv": (m.heads + m.kv_heads) * m.head_dim
        for name, m in modules.items()
        if isinstance(m, Attention) and m.qk_norm is not None
    }
    handles = []
    for name, module in modules.items():
        if name in gated:
            handles.append(module.register_forward_pre_hook(partial(on_gated, gated[name])))
        if isinstance(module, Block | PostNormBlock):
            handles.append(module.register_forward_hook(partial(on_block, name)))
        elif isinstance(module, FeatureMap):
            handles.append(module.register_forward_hook(partial(on_features, name)))
        elif isinstance(module, MeanPool):
            handles.append(module.register_forward_hook(partial(on_mean, name)))
        elif isinstance(module, ScaledLayerNorm):
            handles.append(module.register_forward_pre_hook(partial(on_norm, name)))
        elif isinstance(module, UnitNorm):
            handles.append(module.register_forward_pre_hook(partial(on_unit_norm, name)))
        elif isinstance(module, PRODUCTS) and not name.endswith("rope.swap") and name not in into_norms:
            handles.append(module.register_forward_hook(partial(on_product, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
