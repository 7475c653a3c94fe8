"""timm's plain `VisionTransformer`: no RoPE, biases in qkv, LayerScale under another name; against timm in float64."""

from typing import Any

import pytest
import timm
import torch

from pecore.convert.synthetic import fill
from pecore.rewrites import Output, Scales, UnsupportedTowerError, rewrite
from pecore.validate.exactness import max_difference

EXACT = 1e-10
UNUSUAL = Scales(stem=4.0, stream=2.0**-7, gains={"blocks.0.norm2": 16.0, "norm": 0.5}, pool=2.0, head=0.125)


def vit(name: str, **options: Any) -> Any:
    """Two blocks on 2 x 2 patches."""
    side = 2 * (14 if "patch14" in name else 16)
    return fill(timm.create_model(name, pretrained=False, depth=2, img_size=side, **options)).eval()


@pytest.mark.parametrize("by_block", [False, True], ids=["whole", "by block"])
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",  # a classifier
        "vit_small_patch14_dinov2",  # LayerScale, no head
        "vit_small_patch14_reg4_dinov2",  # registers without positions
        "vit_base_patch16_siglip_224",  # no class token, attention pooling
        "vit_base_patch16_clip_224",  # norm_pre, a projection; exact GELU
        "vit_small_patch16_36x1_224",
        "vit_base_patch16_rpn_224",
    ],
)
def test_vision_transformers(name: str, by_block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_block:
        monkeypatch.setattr("pecore.validate.exactness.WHOLE_TOWER_PARAMETERS", 0)
    if "rpn" in name:
        with pytest.raises(UnsupportedTowerError, match=r"^blocks\.0: a ResPostBlock"):
            rewrite(vit(name))
        return
    model = vit(name)
    image = torch.randn(1, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(2))
    for output in (Output("both"), Output("features", 0)):
        assert max_difference(model, UNUSUAL, image, output) <= EXACT


def test_what_is_refused() -> None:
    with pytest.raises(UnsupportedTowerError, match=r"^pool: avg pooling with class token"):
        rewrite(vit("vit_tiny_patch16_224", global_pool="avg", pool_include_prefix=True), output=Output("embedding"))
    with pytest.raises(UnsupportedTowerError, match=r"^pool: map pooling without class token"):
        rewrite(vit("vit_tiny_patch16_224", global_pool="map"), output=Output("embedding"))
    with pytest.raises(UnsupportedTowerError, match=r"^blocks\.0\.mlp\.act: QuickGELU"):
        rewrite(vit("vit_base_patch16_clip_quickgelu_224"))
    with pytest.raises(UnsupportedTowerError, match=r"^ConvNeXt: a model that is neither"):
        rewrite(timm.create_model("convnext_atto", pretrained=False))
