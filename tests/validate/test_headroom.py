"""Gate 5: the figures against a computation of their own, and the scales that follow from them."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate import headroom
from pecore.validate.headroom import (
    ENOUGH,
    FP16_MAX,
    QUIET,
    STREAM_SCALES,
    Reduction,
    choose_scales,
    fit_scales,
    measure,
    rescaled,
    scales_with,
)
from pecore.validate.subnormal import subnormal_weights


@pytest.fixture(scope="module")
def images(small, shots) -> list[torch.Tensor]:
    return [torch.from_numpy(preprocess(shot, small("T16", 3).image_size)) for shot in shots]


AMPLITUDES = (0.0, 400.0, 8000.0, 20000.0)


@dataclass(frozen=True)
class Fitted:
    model: Any
    scales: Scales
    reductions: list[Reduction]


@pytest.fixture(scope="module")
def fitted(small, images: list[torch.Tensor]) -> dict[float, Fitted]:
    """timm's tower of three blocks, by the amplitude of its massive activations, and the scales it gets."""
    variant = small("T16", 3)
    models = {a: build_tower(variant, synthetic_state_dict(variant, amplitude=a)) for a in AMPLITUDES}
    return {a: Fitted(model, *fit_scales(model, images)) for a, model in models.items()}


def _stream_norms(reductions: list[Reduction]) -> list[Reduction]:
    return [r for r in reductions if r.kind == "layernorm" and not r.name.startswith(("stem.", "pool."))]


@pytest.mark.parametrize("amplitude", AMPLITUDES)
def test_scales_keep_every_reduction_in_range(fitted: dict[float, Fitted], amplitude: float) -> None:
    scales, reductions = fitted[amplitude].scales, fitted[amplitude].reductions
    assert {r.kind for r in reductions} == {"layernorm", "linear", "matmul", "stream", "l2"}
    for r in reductions:
        assert r.headroom >= ENOUGH, r.name
    for value in (scales.stem, scales.stream, scales.pool, scales.head, *scales.gains.values()):
        assert math.frexp(value)[0] == 0.5  # a power of two
    for r in _stream_norms(reductions):
        quiet = r.smallest * r.scale**2 < QUIET
        assert not quiet or 4 * r.largest > headroom.COMFORTABLE_SUM, f"{r.name} could have had twice the gain"


def test_the_stream_s_scale_is_the_largest_and_loud_norms_get_a_gain(fitted: dict[float, Fitted]) -> None:
    none, usual, large, huge = (fitted[a].scales for a in AMPLITUDES)
    assert [s.stream for s in (none, usual, large, huge)] == [1, 1 / 8, 1, 1 / 2]
    assert not none.gains
    assert not usual.gains
    before = {f"blocks.{i}.norm{n}" for i in (0, 1) for n in (1, 2)}  # the massive activations arise in block 1's MLP
    assert before.isdisjoint(large.gains)
    assert set(large.gains) == set(huge.gains)
    assert all(huge.gains[name] < gain < 1 for name, gain in large.gains.items())


@pytest.mark.parametrize("amplitude", AMPLITUDES)
def test_a_larger_scale_costs_an_op_or_headroom(fitted: dict[float, Fitted], amplitude: float) -> None:
    chosen, reductions = fitted[amplitude].scales, fitted[amplitude].reductions
    assert len(chosen.gains) == len(scales_with(reductions, STREAM_SCALES[-1]).gains)
    assert choose_scales(reductions) == chosen  # a result of the measurements alone
    twice = scales_with(reductions, 2 * chosen.stream)
    least = headroom.min_headroom(rescaled(reductions, twice)).headroom
    assert chosen.stream == 1 or len(twice.gains) > len(chosen.gains) or least < ENOUGH


@pytest.mark.parametrize("amplitude", AMPLITUDES)
def test_no_fp16_weight_pays_for_an_amplitude(fitted: dict[float, Fitted], amplitude: float) -> None:
    """The stream's scale is in `attn.proj` and `mlp.fc2`: a small one would make their weights subnormal."""
    lost = {s.kind: s.lost for s in subnormal_weights(rewrite(fitted[amplitude].model, fitted[amplitude].scales))}
    smallest = {s.kind: s.lost for s in subnormal_weights(rewrite(fitted[amplitude].model, Scales(stream=1 / 32)))}
    for kind in ("blocks.*.attn.proj", "blocks.*.mlp.fc2"):
        assert 6 * lost[kind] < smallest[kind] < 0.02  # lost grows with a scale's power of 1.5: 8 for 1/8


@pytest.mark.parametrize("amplitude", AMPLITUDES)
def test_scales_change_nothing(fitted: dict[float, Fitted], images: list[torch.Tensor], amplitude: float) -> None:
    model, image = fitted[amplitude].model, images[0].double()
    with torch.no_grad():
        expected = F.normalize(copy.deepcopy(model).double()(image), dim=-1)
        assert (rewrite(model, fitted[amplitude].scales, dtype=torch.float64)(image) - expected).abs().max() <= 1e-10


def test_figures_are_those_of_a_direct_computation(seen) -> None:
    """From timm's own activations, in float64."""
    scales = Scales(stem=0.5, stream=1 / 128, gains={"blocks.0.norm1": 8.0}, pool=4.0, head=2.0)
    tower = rewrite(seen.model, scales, dtype=torch.float64)
    found = {r.name: r for r in measure(tower, scales, [seen.image])}
    names = {"norm": "norm", "stem.norm_pre": "norm_pre", "pool.norm": "attn_pool.norm"}
    names |= {f"blocks.{i}.norm{n}": f"blocks.{i}.norm{n}" for i in (0, 1) for n in (1, 2)}
    assert {r.name for r in found.values() if r.kind == "layernorm"} == set(names)
    for ours, theirs in names.items():
        x = seen.inputs[theirs]
        squares = (x - x.mean(-1, keepdim=True)).square()
        assert found[ours].unscaled == pytest.approx(float(squares.sum(-1).max()), rel=1e-9)
        assert found[ours].smallest == pytest.approx(float(squares.mean(-1).min()), rel=1e-9)
        assert found[ours].peak == pytest.approx(float(squares.max().sqrt()), rel=1e-9)
        scale = {"norm_pre": 0.5, "attn_pool.norm": 4.0, "blocks.0.norm1": 8 / 128}.get(theirs, 1 / 128)
        assert found[ours].largest == pytest.approx(found[ours].unscaled * scale**2, rel=1e-12)
    for name in ("blocks.0.mlp.fc1", "blocks.1.mlp.fc1"):
        assert found[name].largest == pytest.approx(float(seen.outputs[name].abs().max()), rel=1e-9)
    addition = seen.outputs["blocks.1.mlp"]
    addition = (addition - addition.mean(-1, keepdim=True)).abs().max()
    assert found["blocks.1.mlp.fc2"].unscaled == pytest.approx(float(addition), rel=1e-9)
    assert found["blocks.1.mlp.fc2"].largest == pytest.approx(float(addition) / 128, rel=1e-9)
    embedding = seen.outputs["head"]
    assert found["head.normalize"].kind == "l2"
    assert found["head.normalize"].unscaled == pytest.approx(float(embedding.square().sum()), rel=1e-9)
    assert found["head.proj"].largest == pytest.approx(2 * float(embedding.abs().max()), rel=1e-9)
    assert {"blocks.0.attn.scores", "blocks.1.attn.context", "pool.pooled"} <= set(found)


@pytest.mark.parametrize("amplitude", [400.0, 20000.0])
def test_rescaled_is_what_measuring_again_finds(fitted, images: list[torch.Tensor], amplitude: float) -> None:
    scales, predicted = fitted[amplitude].scales, fitted[amplitude].reductions
    again = measure(rewrite(fitted[amplitude].model, scales), scales, images)
    assert [r.name for r in again] == [r.name for r in predicted]
    for a, b in zip(again, predicted):
        assert a.scale == b.scale
        assert a.largest == pytest.approx(b.largest, rel=1e-5)
        assert a.peak == pytest.approx(b.peak, rel=1e-5)
        assert a.smallest == pytest.approx(b.smallest, rel=1e-5, nan_ok=True)


def test_extremes_are_over_all_images(fitted: dict[float, Fitted], images: list[torch.Tensor]) -> None:
    scales = Scales()
    tower = rewrite(fitted[400.0].model, scales)
    one_by_one = [measure(tower, scales, [image]) for image in images]
    for together, *alone in zip(measure(tower, scales, images), *one_by_one):
        # The same sums in another run: 1e-5 is far above float32's rounding and far below what tells images apart.
        assert together.unscaled == pytest.approx(max(r.unscaled for r in alone), rel=1e-5)
        assert together.smallest == pytest.approx(min(r.smallest for r in alone), rel=1e-5, nan_ok=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())


def test_a_reduction_past_fp16_has_no_headroom() -> None:
    r = Reduction("norm", "layernorm", 0.5, 4 * FP16_MAX, 1.0, 100.0)
    assert (r.largest, r.headroom) == (FP16_MAX, 1.0)
    assert Reduction("fc", "linear", 0.5, 4 * FP16_MAX, math.nan, 100.0).headroom == 0.5
    assert Reduction("fc", "linear", 1.0, 0.0, math.nan, 0.0).headroom == math.inf
    assert headroom.min_headroom([r, Reduction("fc", "linear", 1.0, 1.0, math.nan, 1.0)]) is r
    assert Reduction("fc", "linear", 1.0, 1.0, math.nan, 1.0).as_dict()["smallest"] is None


@pytest.mark.parametrize(
    ("unscaled", "stream", "gain"),
    [
        (1.0, 1, None),
        (16376.0, 1, None),
        (16377.0, 1 / 2, None),
        (4.8e5, 1 / 8, None),
        (1.6e7, 1 / 32, None),
        (1.7e7, 1 / 4, 1 / 16),
        (4e8, 1 / 4, 1 / 64),
    ],
)
def test_scales_by_hand(unscaled: float, stream: float, gain: float | None) -> None:
    """16376 / 32^-2 = 1.677e7 is what 1/32 carries with headroom 4. A norm that needs a gain there can have a smaller
    one: the next norm's sum, or the stream itself, then decides (40000 / 4 <= 16376)."""
    norms = [
        Reduction("blocks.0.norm1", "layernorm", 1.0, min(unscaled, 2e5), 1e3, 1.0),
        Reduction("blocks.0", "stream", 1.0, unscaled**0.5, math.nan, unscaled**0.5),
        Reduction("norm", "layernorm", 1.0, unscaled, 1e3, 1.0),
        Reduction("blocks.0.mlp.norm", "layernorm", 1.0, 1e12, 1.0, 1.0),  # reads no residual stream
        Reduction("l2", "l2", 1.0, 100.0, math.nan, 1.0),
    ]
    scales = choose_scales(norms)
    assert (scales.stream, scales.gains.get("norm")) == (stream, gain)
    assert set(scales.gains) <= {"norm", "blocks.0.mlp.norm"}
    assert min(r.headroom for r in rescaled(norms, scales)) >= ENOUGH
    assert scales.head == 2.0  # 100 * 2^2 <= 1024 < 100 * 4^2


def test_features_count_by_their_own_size(small, images: list[torch.Tensor]) -> None:
    """They leave the graph unscaled; twice the amplitude still has to fit, as with the norms that read the stream."""
    variant = small("spatial-T16", 2)
    model = build_tower(variant, synthetic_state_dict(variant, amplitude=20000.0))
    scales, reductions = fit_scales(model, images)
    found = {r.name: r for r in reductions}["features"]
    theirs = max(float(model.forward_features(image)[:, 1:].abs().max()) for image in images)
    assert (found.kind, found.scale) == ("features", 1.0)
    assert found.largest == pytest.approx(theirs, rel=1e-5)
    assert found.headroom == pytest.approx((FP16_MAX / theirs) ** 2, rel=1e-4)
    assert ENOUGH < found.headroom < ENOUGH**2
    assert not any(r.kind == "l2" for r in reductions)
    assert scales.head == 1.0
    assert Reduction("features", "features", 1.0, FP16_MAX / 1.9, math.nan, 1.0).headroom < ENOUGH


def test_mean_pooling_and_gates_are_watched(images: list[torch.Tensor]) -> None:
    import timm

    model = timm.create_model("eva02_tiny_patch14_224", img_size=56, depth=1, num_classes=5).eval()
    given = [F.interpolate(image, 56) for image in images]
    scales, reductions = fit_scales(model, given)
    found = {r.name: r for r in reductions}
    tokens = torch.stack([model.forward_features(image)[0, 1:].reshape(4, 4, -1) for image in given])
    centred = tokens - tokens.mean(-1, keepdim=True)
    sums = max(float(centred.sum(2).abs().max()), float(centred.mean(2).sum(1).abs().max()))
    assert (found["pool"].kind, found["pool"].scale) == ("mean", scales.stream)
    assert found["pool"].unscaled == pytest.approx(sums, rel=1e-3)
    assert found["blocks.0.mlp.act"].kind == "gate"
    assert found["fc_norm"].kind == "layernorm"
    assert rescaled(reductions, scales) == reductions
