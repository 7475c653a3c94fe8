"""Headroom of what other Eva towers have: norms inside branches, post-norm blocks, LayerScale."""

import math
from typing import Any

import pytest
import torch

from pecore.convert.synthetic import fill, normal
from pecore.convert.timm_tower import reduced
from pecore.rewrites import Output, Scales, rewrite
from pecore.rewrites.norm import LEAST_CARRIED, ScaledLayerNorm
from pecore.rewrites.tower import INNER_NORMS
from pecore.validate.headroom import (
    ENOUGH,
    FP16_MAX,
    Reduction,
    choose_scales,
    fit_scales,
    measure,
    stream_scale,
)
from pecore.validate.subnormal import subnormal_weights

LOUD = 2000.0


def tower(name: str, loud: float = 1.0) -> tuple[Any, list[torch.Tensor]]:
    """Two blocks whose inner norms read what is `loud` times as large as it was."""
    model = fill(reduced(name, (2, 2), widest=384))
    for block in model.blocks:
        inner = [block.attn.q_proj, block.attn.k_proj] if "sapiens2" in name else []
        inner += [block.mlp.fc1_x] if hasattr(block.mlp, "fc1_x") else []
        inner += [block.attn.proj, block.mlp.fc2] if "enormous" in name else []
        for linear in inner:
            linear.weight.data *= loud
    generator = torch.Generator().manual_seed(4)
    images = [torch.randn(1, 3, *model.patch_embed.img_size, generator=generator) for _ in range(2)]
    return model, images


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("eva02_base_patch16_clip_224", (".attn.norm", ".mlp.norm")),
        ("vit_large_patch16_sapiens2", (".attn.qk_norm.norm",)),
        ("eva02_enormous_patch14_clip_224", (".attn_norm.norm", ".mlp_norm.norm")),
    ],
)
@pytest.mark.parametrize("loud", [1 / LOUD, 1.0, LOUD])
def test_norms_inside_branches_get_a_factor(name: str, ends: tuple[str, ...], loud: float) -> None:
    model, images = tower(name, loud)
    scales, reductions = fit_scales(model, images, Output("both"))
    inner = {r.name: r for r in reductions if r.name.endswith(INNER_NORMS)}
    assert {r.kind for r in inner.values()} == {"layernorm"}
    assert set(inner) == {f"blocks.{i}{end}" for i in (0, 1) for end in ends}
    assert all(r.headroom >= ENOUGH for r in reductions)
    assert any(r.unscaled > FP16_MAX for r in inner.values()) == (loud == LOUD)  # a plain norm would overflow
    # What was chosen by algebra is what the rewritten tower then does.
    measured = measure(rewrite(model, scales, output=Output("both")), scales, images)
    assert [r.name for r in measured] == [r.name for r in reductions]
    for found, expected in zip(measured, reductions):
        if not found.name.endswith(".attn.qkv"):  # of which an upper bound is reported where v carries a factor
            assert found.largest == pytest.approx(expected.largest, rel=2e-3), found.name


def test_the_factor_is_in_the_weights_down_to_the_least_they_carry() -> None:
    model, images = tower("eva02_base_patch16_clip_224", LOUD)
    scales, _ = fit_scales(model, images)
    norms = {n: m for n, m in rewrite(model, scales).named_modules() if isinstance(m, ScaledLayerNorm)}
    factor, norm = scales.gains["blocks.0.mlp.norm"], norms["blocks.0.mlp.norm"]
    assert factor < LEAST_CARRIED == norm.scale
    assert norm.scale * norm.gain == factor
    comfortable = norms["blocks.0.attn.norm"]
    assert comfortable.gain == 1.0  # no op


def test_an_inner_norm_s_factor_by_hand() -> None:
    def factor(unscaled: float) -> float:
        r = Reduction("blocks.0.mlp.norm", "layernorm", 1.0, unscaled, 1.0, 1.0)
        return choose_scales([r]).gains["blocks.0.mlp.norm"]

    assert factor(1024.0) == 1.0
    assert factor(64.0) == 4.0  # quiet: up, for nothing
    assert factor(2.0**20) == LEAST_CARRIED  # 2^20 / 32^2 = 1024
    assert factor(2.0**22) == LEAST_CARRIED  # 4096 still keeps 4x: no op
    assert factor(2.0**25) == 2.0**-6  # 2^-5.5 would do, but only powers of two round nothing


def test_a_mean_of_the_stream_limits_its_scale() -> None:
    assert stream_scale([Reduction("pool", "mean", 1 / 32, FP16_MAX, math.nan, 1.0)]) == 1 / 4
    assert stream_scale([Reduction("pool", "mean", 1.0, FP16_MAX / ENOUGH, math.nan, 1.0)]) == 1.0


@pytest.mark.parametrize("amplitude", [0.0, 20000.0])
def test_a_post_norm_stream_is_watched_itself(amplitude: float) -> None:
    """No norm reads it before the end: its elements alone say what it can carry."""
    model = fill(reduced("eva02_enormous_patch14_clip_224", (2, 2), widest=384), amplitude)
    image = normal("image", (1, 3, *model.patch_embed.img_size), 0)
    scales, reductions = fit_scales(model, [image])
    found = {r.name: r for r in reductions if r.kind == "stream"}
    theirs = model.blocks[0](model.norm_pre(model._pos_embed(model.patch_embed(image))[0])).abs().max()
    assert set(found) == {"blocks.0", "blocks.1"}
    assert found["blocks.0"].unscaled == pytest.approx(float(theirs), rel=1e-4)
    assert found["blocks.0"].scale == scales.stream == (1 / 2 if amplitude else 1)


def test_small_layer_scales_leave_no_more_subnormal_weights_than_they_must() -> None:
    """1/32 on top of a LayerScale of 0.01 would leave hardly a normal number in fp16."""
    model, images = tower("vit_small_patch16_dinov3_qkvb")
    for block in model.blocks:
        for gamma in (block.gamma_1, block.gamma_2):
            gamma.data.fill_(0.01)
    scales, reductions = fit_scales(model, images)
    assert scales.stream > 1 / 32
    assert all(r.headroom >= ENOUGH for r in reductions)
    chosen, fixed = (
        {s.kind: s.lost for s in subnormal_weights(rewrite(model, form))} for form in (scales, Scales(stream=1 / 32))
    )
    for kind in ("blocks.*.attn.proj", "blocks.*.mlp.fc2"):
        assert chosen[kind] < 0.3 < 0.9 < fixed[kind]
