"""Outputs other than the embedding, against timm's forward_features and forward_intermediates in float64."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites import Output, Scales, UnsupportedTowerError, rewrite
from pecore.rewrites.norm import ScaledLayerNorm
from pecore.validate.exactness import block_differences, max_difference, timm_outputs
from pecore.variants import VARIANTS, Variant, find

EXACT = 1e-10
UNUSUAL = Scales(stem=4.0, stream=2.0**-7, gains={"blocks.0.norm2": 16.0, "norm": 0.5}, pool=2.0, head=0.125)
HEADLESS = [v for v in VARIANTS if v.family != "core" and "tiling" not in v.size]  # a tiling tower is the other's twin


def build(variant: Variant, grid: int = 3, **reduced: Any) -> tuple[Any, torch.Tensor]:
    """timm's tower of two blocks and two images for it."""
    small = replace(variant, image_size=grid * variant.patch, **({"depth": 2} | reduced))
    image = torch.rand(2, 3, *[small.image_size] * 2, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return build_tower(small, synthetic_state_dict(small)), image


@pytest.mark.parametrize("variant", HEADLESS, ids=lambda v: v.size)
def test_lang_and_spatial_towers_are_timm_s(variant: Variant) -> None:
    """No pool, no final norm, G without a class token, LayerScale in some; the heavy ones part by part."""
    model, image = build(variant, 2, width=96, heads=3, mlp_width=200) if variant.width > 1000 else build(variant)
    assert (model.blocks[0].gamma_1 is not None) == variant.layer_scale
    for output in (Output("features"), Output("features", 0)):
        assert max_difference(model, UNUSUAL, image, output, keep_norm_weights=True) <= EXACT
        assert max(block_differences(model, UNUSUAL, image, output, keep_norm_weights=False).values()) <= EXACT


@pytest.fixture(scope="module")
def core() -> tuple[Any, torch.Tensor]:
    return build(find("T16"), depth=3)


@pytest.mark.parametrize("keep", [False, True], ids=["folded", "norm weights kept"])
@pytest.mark.parametrize(
    "output",
    [
        Output("features"),
        Output("features", 0),
        Output("features", -2),
        Output("features", 2),
        Output("both"),
        Output("both", 1),
        Output("logits"),
    ],
    ids=str,
)
def test_outputs_of_a_core_tower(core: tuple[Any, torch.Tensor], output: Output, keep: bool) -> None:
    model, image = core
    assert max_difference(model, UNUSUAL, image, output, keep_norm_weights=keep) <= EXACT
    assert max(block_differences(model, UNUSUAL, image, output, keep_norm_weights=keep).values()) <= EXACT


def test_timm_s_side_is_timm_s(core: tuple[Any, torch.Tensor]) -> None:
    """What all of it is held against, in timm's own words."""
    model, image = core
    with torch.no_grad():
        last, middle = (timm_outputs(model, image, Output("features", layer))["features"] for layer in (-1, 1))
        expected = model.forward_intermediates(image, [1, 2], intermediates_only=True)
        normed = model.forward_intermediates(image, [2], norm=True, intermediates_only=True)[0]
        channels_last = timm_outputs(model, image, Output("both", 1), channels_last=True)
    assert_close(middle, expected[0])
    assert_close(last, normed)  # the last block goes through the final norm, as in forward_features
    assert not torch.allclose(last, expected[1], atol=0.1)
    assert list(channels_last) == ["embedding", "features"]
    assert_close(channels_last["features"], middle.permute(0, 2, 3, 1))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to float32's rounding at the largest element: strides and layouts choose kernels, which add in their order."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_layouts(core: tuple[Any, torch.Tensor]) -> None:
    model, image = core
    maps = [
        rewrite(model, output=Output("features", 1), input_layout=layout)(given)
        for layout, given in (("nchw", image), ("nhwc", image.permute(0, 2, 3, 1)))
    ]
    assert [tuple(m.shape) for m in maps] == [(2, 192, 3, 3), (2, 3, 3, 192)]
    assert_close(maps[0], maps[1].permute(0, 3, 1, 2))


def test_the_graph_ends_at_the_layer_and_only_a_shown_stream_keeps_its_mean(core: tuple[Any, torch.Tensor]) -> None:
    model, _ = core
    tower = rewrite(model, output=Output("features", 1))
    assert (len(tower.blocks), tower.pool, tower.head) == (2, None, None)
    assert isinstance(tower.norm, nn.Identity)
    assert len(rewrite(model, output=Output("both", 1)).blocks) == 3

    loud = {f"blocks.{i}.{norm}": 0.5 for i in range(len(model.blocks)) for norm in ("norm1", "norm2")}

    def centred(output: Output, gains: dict[str, float]) -> set[bool]:
        blocks = rewrite(model, Scales(gains=gains), output=output).blocks
        return {m.centred for m in blocks.modules() if isinstance(m, ScaledLayerNorm)}

    assert centred(Output("features", 1), loud) == centred(Output("both", 1), loud) == {False}
    for whole in (Output("features"), Output("both"), Output("embedding")):
        assert (centred(whole, loud), centred(whole, {})) == ({True}, {False})


def test_a_tower_says_by_itself_what_it_is_for() -> None:
    """`rewrite` without an output: embedding, logits, features."""
    core, image = build(find("T16"), depth=1)
    assert float(rewrite(core)(image)[1].norm()) == pytest.approx(1, abs=1e-5)
    classifier, _ = build(find("spatial-T16"), depth=1, embedding_dim=7)
    torch.testing.assert_close(rewrite(classifier)(image), classifier(image), rtol=1e-4, atol=1e-4)
    headless, _ = build(find("spatial-T16"), depth=1)
    assert rewrite(headless)(image).shape == (2, 192, 3, 3)


def test_eva02() -> None:
    """Another model of the family: SwiGLU, q and v biases beside the projection, mean pooling, a norm behind it."""
    model = timm.create_model("eva02_tiny_patch14_224", img_size=56, depth=2, num_classes=10).eval()
    generator = torch.Generator().manual_seed(4)
    for p in model.parameters():
        p.data += torch.randn(p.shape, generator=generator) * (0.2 if p.ndim == 1 else 0.05)
    image = torch.rand(2, 3, 56, 56, generator=generator)
    for output in (None, Output("both"), Output("features", 0)):
        assert max_difference(model, UNUSUAL, image, output, keep_norm_weights=True) <= EXACT
        assert max(block_differences(model, UNUSUAL, image, output, keep_norm_weights=False).values()) <= EXACT


def test_refusals(core: tuple[Any, torch.Tensor]) -> None:
    model, _ = core
    with pytest.raises(ValueError, match="unknown output 'tokens'; choose from embedding, logits, features, both"):
        Output("tokens")
    with pytest.raises(ValueError, match="the output is embedding: choose features or both"):
        Output(layer=1)
    for layer in (3, -4):
        with pytest.raises(ValueError, match=f"no layer {layer}: the tower has 3 blocks, 0 to 2"):
            rewrite(model, output=Output("features", layer))
    headless, _ = build(find("spatial-T16"), depth=1)
    with pytest.raises(UnsupportedTowerError, match=r"^head: a classifier that is not there"):
        rewrite(headless, output=Output("logits"))
