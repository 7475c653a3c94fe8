"""Towers of timm's Eva class that are no Perception Encoder: by name, with weights as their authors store them, and
prepared as timm prepares them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from pecore.bundle import open_bundle
from pecore.convert import checkpoint, pipeline
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.timm_tower import create, eva_names, hub_file, preprocessing, timm_variant
from pecore.convert.towers import build_tower
from pecore.embed import embedded
from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.image import Resize
from pecore.validate.bundle import ValidationOptions, validate
from pecore.validate.photographs import photographs, tower_inputs

EUPE = "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"


@pytest.mark.parametrize("name", [name for name in eva_names() if not name.startswith("vit_pe_")])
def test_every_entry_point_has_a_variant(name: str) -> None:
    size = 256 if "sapiens2" in name else None
    variant = timm_variant(name, size)
    assert variant.timm_name.startswith(f"{name}.")
    assert variant.tokens == variant.grid**2 + variant.class_token + variant.registers
    assert variant.output == (
        "features" if not variant.embedding_dim else "embedding" if "_clip_" in name else "logits"
    )
    repo, file = hub_file(variant)
    assert repo.endswith(f"/{variant.timm_name}")
    assert file == "model.safetensors"
    assert Resize.of(preprocessing(variant)).name == preprocessing(variant)["resize"]


def test_names_that_are_none() -> None:
    for name, message in (
        ("resnet18", "'resnet18' is neither of timm's Eva class"),
        ("vit_base_patch16_clip_quickgelu_224", r"can't be converted: blocks\.0\.mlp\.act: QuickGELU\(\) has no"),
        ("vit_tiny_patch16_dinov3_qkvb.nonsense", "has no weights 'nonsense': choose eupe_lvd1689m"),
        ("vit_base_patch16_sapiens2", "images of 1024 x 768 pixels, and a bundle's are square"),
    ):
        with pytest.raises(InputError, match=message):
            timm_variant(name)
    with pytest.raises(InputError, match="image size 100 is not a positive multiple"):
        timm_variant(EUPE, 100)
    with pytest.raises(InputError, match="unknown pool 'max'"):
        timm_variant(EUPE, pool="max")
    with pytest.raises(InputError, match="--pool token: vit_medium_patch16_rope_reg1_gap_256 has no class token"):
        timm_variant("vit_medium_patch16_rope_reg1_gap_256", pool="token")
    with pytest.raises(InputError, match="--pool token: B16 is pooled as it was trained"):
        timm_variant("vit_pe_core_base_patch16_224", pool="token")


@pytest.mark.parametrize(
    "name",
    [
        EUPE,
        "vit_small_patch16_rope_mixed_224",
        "eva02_tiny_patch14_224",
        "vit_base_patch16_lingbot",
        "eva_giant_patch14_336",
        "vit_medium_patch16_rope_reg1_gap_256",
    ],
)
def test_images_are_prepared_as_timm_prepares_them(name: str) -> None:
    """Pillow does both resizes, so the pixels are the same ones; the graph's range is undone to compare."""
    variant = timm_variant(name)
    about = preprocessing(variant)
    model = timm.create_model("vit_tiny_patch16_dinov3_qkvb", pretrained=False, depth=1)
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(variant.timm_name).to_dict(), model=model)
    transform = timm.data.create_transform(**config)
    for height, width in ((300, 500), (500, 301), (variant.image_size, variant.image_size), (90, 64)):
        image = Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))
        theirs = transform(image)
        assert isinstance(theirs, torch.Tensor)
        (ours,) = tower_inputs([image], variant.image_size, about)
        assert (ours[0] - theirs).abs().max() <= 1e-5  # float32 rounding


def test_a_resize_of_a_newer_version_is_refused() -> None:
    for name in ("letterbox", "squash-bicubic"):  # the second names another filter than the manifest's
        with pytest.raises(InputError, match=f"resized by {name}"):
            Resize.of({"resize": name, "filter": "bilinear, antialiased"})
    assert Resize("squash", "bicubic").name == "squash-bicubic"  # which an app that knows `squash` alone refuses
    assert Resize("squash", crop_pct=0.9).name == "squash-crop"


def dinov3_keys(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of timm's as Meta stores DINOv3 and EUPE."""
    found: dict[str, torch.Tensor] = {"mask_token": torch.zeros(1, 1, 4), "rope_embed.periods": torch.zeros(4)}
    for key, tensor in tensors.items():
        key = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        if key.endswith(("q_bias", "v_bias")):
            stem = key.rpartition(".")[0]
            q, v = tensors[f"{stem}.q_bias"], tensors[f"{stem}.v_bias"]
            found[f"{stem}.qkv.bias"] = torch.cat((q, torch.zeros_like(q), v))
        else:
            found[key] = tensor
    return found


@pytest.fixture(scope="module")
def eupe() -> tuple[Any, dict[str, torch.Tensor]]:
    variant = timm_variant(EUPE, 64, pool="token")
    return variant, synthetic_state_dict(variant, seed=3, amplitude=100.0)


def test_weights_as_timm_and_as_their_authors_store_them(eupe, tmp_path: Path) -> None:
    variant, tensors = eupe
    as_timm, as_meta = tmp_path / "model.safetensors", tmp_path / "eupe.pth"
    save_file({k: t.contiguous() for k, t in tensors.items()}, as_timm)
    torch.save({"model": dinov3_keys(tensors)}, as_meta)
    loaded = [checkpoint.load(variant, path) for path in (as_timm, as_meta)]
    for weights in loaded:
        assert weights.state_dict.keys() == tensors.keys()
        assert all(torch.equal(weights.state_dict[k], t) for k, t in tensors.items())
    assert loaded[0].origin().fingerprint == loaded[1].origin().fingerprint
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = create(variant, variant.depth)
    model.load_state_dict(tensors)
    assert torch.equal(build_tower(variant, loaded[1].state_dict)(image), model(image))


def test_another_tower_s_weights_are_refused(eupe, tmp_path: Path) -> None:
    variant, tensors = eupe
    path = tmp_path / "model.safetensors"
    save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    with pytest.raises(InputError, match=r"model.safetensors does not fit vit_small_patch16_dinov3_qkvb.*instead of"):
        checkpoint.load(timm_variant("vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", 64), path)
    save_file({k: t.contiguous() for k, t in tensors.items() if not k.startswith("blocks.11.norm1")}, path)
    with pytest.raises(InputError, match=r"does not fit .*blocks.11.norm1.weight is missing"):
        checkpoint.load(variant, path)


def test_positions_follow_the_image_size(tmp_path: Path) -> None:
    trained, small = (timm_variant("eva02_tiny_patch14_224.mim_in22k", size) for size in (None, 56))
    tensors = synthetic_state_dict(trained, seed=1, amplitude=0.0)
    path = tmp_path / "model.safetensors"
    save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    weights = checkpoint.load(small, path)
    assert weights.state_dict["pos_embed"].shape == (1, 17, 192)
    whole = timm.create_model("eva02_tiny_patch14_224", pretrained=False)
    whole.load_state_dict(tensors)
    whole.set_input_size((56, 56))
    assert torch.allclose(whole.pos_embed, weights.state_dict["pos_embed"], atol=1e-6)


def test_a_bundle_from_weights_to_an_embedding(eupe, tmp_path: Path) -> None:
    """Two blocks of EUPE tiny: mean, std and crop as timm's, all the way to `PerceptionEncoder`."""
    variant, _ = eupe
    variant = replace(variant, depth=2)
    weights = checkpoint.load(variant, "synthetic", amplitude=100.0)
    options = pipeline.VisionOptions(("fp32",), "skip", output="both", input_layout="nhwc", input_range="0..255")
    target = tmp_path / pipeline.bundle_name(variant, options)
    assert target.name == "vit_tiny_patch16_dinov3_qkvb_eupe_lvd1689m_token_64_both"
    result = pipeline.convert(variant, weights, target, options, lambda _: None)
    assert result.passed, [c.detail for c in result.checks]
    manifest = open_bundle(target).manifest
    assert manifest.vision is not None
    assert manifest.variant == variant
    assert manifest.vision.preprocessing["resize"] == "crop"
    assert manifest.vision.preprocessing["mean"] == [0.485, 0.456, 0.406]

    encoder = PerceptionEncoder(target)
    photo = next(iter(photographs()))[1].crop((0, 0, 300, 200))
    model = build_tower(variant, weights.state_dict)
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(EUPE).to_dict() | {"input_size": (3, 64, 64)})
    pixels = timm.data.create_transform(**config)(photo)
    assert isinstance(pixels, torch.Tensor)
    tokens = model.forward_features(pixels[None])
    expected = F.normalize(tokens[:, 0], dim=-1)
    assert np.abs(encoder.embed_image(photo) - expected.numpy()).max() <= 1e-5
    ((_, row),) = embedded(encoder, [photo], read=lambda image: image)  # what `pecore embed` runs
    assert np.abs(np.asarray(row) - expected.numpy()).max() <= 1e-5
    theirs = tokens[0, 5:].numpy()  # class token and four registers left out
    ours = encoder.features(photo)[0].reshape(192, 16).T
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()

    from pecore.convert.load import bundle_tower

    checks = validate(target, ValidationOptions(gpu="skip"), bundle_tower, lambda _: None)
    assert [c for c in checks if c.outcome == "failed"] == []
    assert {c.gate for c in checks} >= {"exact", "headroom", "cpu"}


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2.lvd142m", "vit_base_patch16_siglip_224.webli"])
def test_plain_vits(name: str, tmp_path: Path) -> None:
    """From a file under timm's keys to a tower of another image size."""
    trained, variant = timm_variant(name), timm_variant(name, 56 if "patch14" in name else 64)
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in create(replace(trained, depth=2), 2).state_dict().items()}
    generator = torch.Generator().manual_seed(5)
    path = tmp_path / "model.safetensors"
    save_file({k: torch.randn(shape, generator=generator) * 0.02 for k, shape in shapes.items()}, path)
    variant = replace(variant, depth=2)
    tower = build_tower(variant, checkpoint.load(variant, path).state_dict)
    assert tower(torch.zeros(1, 3, variant.image_size, variant.image_size)).shape == (1, variant.width)
    assert variant.output == "features"
