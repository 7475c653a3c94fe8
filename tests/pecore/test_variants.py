from dataclasses import asdict, replace
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from timm.models.eva import checkpoint_filter_fn

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower, tower_shapes
from pecore.errors import InputError
from pecore.variants import VARIANTS, Variant, find, find_timm, resized

HUB = [v for v in VARIANTS if not v.packaged]
published = pytest.mark.parametrize("variant", HUB, ids=lambda v: v.size)
core = pytest.mark.parametrize("variant", [v for v in HUB if v.family == "core"], ids=lambda v: v.size)


@published
def test_row_agrees_with_timm(variant: Variant) -> None:
    with torch.device("meta"):
        tower = timm.create_model(variant.timm_name, pretrained=False)  # nothing of ours handed over
    block = tower.blocks[0]
    assert tower.patch_embed.img_size == (variant.image_size,) * 2
    assert tower.patch_embed.patch_size == (variant.patch,) * 2
    assert tower.patch_embed.num_patches == variant.grid**2
    assert tower.embed_dim == variant.width
    assert len(tower.blocks) == variant.depth
    assert (block.attn.num_heads, block.attn.qkv.in_features // block.attn.num_heads) == (
        variant.heads,
        variant.head_dim,
    )
    assert block.mlp.fc1.out_features == variant.mlp_width
    assert (block.gamma_1 is not None, block.gamma_2 is not None) == (variant.layer_scale, variant.layer_scale)
    assert (tower.cls_token is not None) == variant.class_token
    assert tower.pos_embed.shape == (1, variant.tokens, variant.width)
    assert isinstance(tower.norm, torch.nn.Identity) != variant.final_norm
    if variant.pool_heads:
        assert (tower.attn_pool.num_heads, tower.attn_pool.head_dim) == (variant.pool_heads, variant.pool_head_dim)
    else:
        assert tower.attn_pool is None
    assert tower.num_classes == variant.embedding_dim
    assert isinstance(tower.head, torch.nn.Linear) == bool(variant.embedding_dim)
    assert sum(p.numel() for p in tower.parameters()) == variant.parameters
    assert tower.pretrained_cfg["hf_hub_id"] == variant.vision_repo
    assert tower_shapes(variant) == {k: tuple(v.shape) for k, v in tower.state_dict().items()}


def test_every_perception_encoder_of_timm_s_has_a_row() -> None:
    assert {v.timm_name for v in HUB} == set(timm.list_models("vit_pe_*", pretrained=True))
    assert len(HUB) == 14


def test_the_packaged_tower_is_t16_for_small_images() -> None:
    """Another image size, and a text tower of its own (`test_packaged`)."""
    (own,) = (v for v in VARIANTS if v.packaged)
    alike = {"image_size", "size", "artefact", "open_clip_name", "packaged"}
    own_row, t16 = ({k: v for k, v in asdict(row).items() if k not in alike} for row in (own, find("T16")))
    assert own_row == t16
    assert (own.image_size, own.tokens, own.output) == (96, 37, "embedding")


@core
def test_row_agrees_with_open_clip(variant: Variant) -> None:
    config = open_clip.get_model_config(variant.open_clip_name)
    assert config["vision_cfg"]["timm_model_name"] == variant.timm_name.removesuffix(".fb")
    assert config["vision_cfg"]["image_size"] == variant.image_size
    assert config["embed_dim"] == variant.embedding_dim
    assert open_clip.get_pretrained_cfg(variant.open_clip_name, "meta")["hf_hub"] == variant.clip_repo + "/"


def test_names_tell_variants_apart() -> None:
    for field in ("size", "name", "artefact"):
        assert len({getattr(v, field) for v in VARIANTS}) == len(VARIANTS)
    assert len({v.timm_name for v in HUB}) == len(HUB)
    assert find("B16").artefact == "pe_core_base_224"


def test_find() -> None:
    assert find("b16") is find("B16") is find("core-b16") is find_timm("vit_pe_core_base_patch16_224")
    assert find("Spatial-B16").artefact == "pe_spatial_base_512"
    assert find("lang-l14-tiling") is find_timm("vit_pe_lang_large_patch14_448.fb_tiling")
    with pytest.raises(InputError, match=r"'B32'.*T16, S16, B16, L14, G14"):
        find("B32")
    with pytest.raises(InputError, match=r"'eva02_tiny_patch14_224' is no Perception Encoder .*vit_pe_core_tiny_"):
        find_timm("eva02_tiny_patch14_224")


@pytest.mark.parametrize("size", ["B16", "G14", "lang-L14", "spatial-G14"])
def test_reduced_tower_runs(size: str) -> None:
    variant = replace(find(size), depth=1, image_size=4 * find(size).patch)
    tower = build_tower(variant)
    assert len(tower.blocks) == 1
    assert not tower.training
    assert sum(p.numel() for p in tower.parameters()) == variant.parameters
    assert tower(torch.zeros(2, 3, variant.image_size, variant.image_size)).shape == (
        2,
        variant.embedding_dim or variant.width,
    )


def test_tower_with_a_state_dict_is_timm_s_own_with_it_loaded() -> None:
    variant = replace(find("T16"), depth=2, image_size=64)
    original = timm.create_model(variant.timm_name, pretrained=False, depth=2, img_size=64).eval()
    torch.nn.init.normal_(original.head.weight)
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    for dtype in (torch.float32, torch.float64):
        tower = build_tower(variant, original.state_dict(), dtype=dtype)
        expected = original.to(dtype)(image.to(dtype))
        # The same ops on the same numbers, in two modules: kernels may add in another order.
        tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
        assert (tower(image.to(dtype)) - expected).abs().max() < tolerance * expected.abs().max()
        assert expected.abs().max() > 0.1
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        build_tower(variant, {k: v for k, v in original.state_dict().items() if k != "head.bias"})


def test_towers_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tower was about to be downloaded")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    build_tower(replace(find("T16"), depth=1))


@pytest.mark.parametrize(("size", "image_size"), [("T16", 96), ("spatial-T16", 48), ("lang-L14", 84)])
def test_another_image_size_is_timm_s_own(size: str, image_size: int) -> None:
    """Positions and RoPE grid, against timm's tower of that size with the checkpoint through timm's own filter."""
    small = replace(find(size), depth=1, image_size=4 * find(size).patch)
    state = synthetic_state_dict(small)
    variant = resized(small, image_size)
    tower = build_tower(variant, state)
    options = {"depth": 1, "img_size": image_size}
    theirs = timm.create_model(small.timm_name, pretrained=False, **options).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    image = torch.linspace(-1, 1, 3 * image_size**2).reshape(1, 3, image_size, image_size)
    with torch.no_grad():
        ours, expected = tower(image), theirs(image)
    # Two modules: their kernels may add in another order. A position off by one patch changes whole digits.
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
    assert state["pos_embed"].shape[1] == small.tokens  # the checkpoint itself is as it was


def test_resized_names_and_refusals() -> None:
    b16 = find("B16")
    assert resized(b16, 224) is b16
    large = resized(b16, 448)
    assert (large.artefact, large.grid, large.trained_size) == ("pe_core_base_448", 28, 224)
    assert resized(find("lang-L14-tiling"), 224).artefact == "pe_lang_large_224_tiling"
    for size, nearest in ((225, 224), (-16, 16), (0, 16), (233, 240)):
        with pytest.raises(InputError, match=rf"{size} is not a positive multiple .* 16: try --image-size {nearest}"):
            resized(b16, size)
