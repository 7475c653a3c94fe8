"""The whole tower against timm's in float64, and what it refuses."""

from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from timm.models.eva import Eva
from torch import nn

from pecore.image import preprocess
from pecore.rewrites import Output
from pecore.rewrites.norm import ScaledLayerNorm
from pecore.rewrites.tower import Scales, Stem, UnsupportedTowerError, rewrite
from pecore.validate.exactness import max_difference

EXACT = 1e-10
INNER = {
    f"blocks.{i}.{name}": 2.0**power
    for i, powers in enumerate(((-7, -6, -5, -8, 3), (3, 2, 6, 1, -7)))
    for name, power in zip(("attn.qk_norm.norm", "attn.norm", "mlp.norm", "attn_norm.norm", "mlp_norm.norm"), powers)
}
"""Factors of norms inside a branch, above and below what weights carry."""

UNUSUAL = Scales(stem=4.0, stream=2.0**-7, gains={"blocks.0.norm2": 16.0, "norm": 0.5} | INNER, pool=2.0, head=0.125)


def _expected(seen) -> torch.Tensor:
    return F.normalize(seen.outputs["head"], dim=-1)


@pytest.mark.parametrize(
    ("scales", "keep"),
    [(Scales(), False), (UNUSUAL, True)],
    ids=["default", "unusual scales, norm weights kept"],
)
def test_tower_is_timm_s(seen, scales: Scales, keep: bool) -> None:
    ours = rewrite(seen.model, scales, dtype=torch.float64, keep_norm_weights=keep)(seen.image)
    assert ours.shape == (1, seen.variant.embedding_dim)
    assert (ours - _expected(seen)).abs().max() <= EXACT
    assert float(ours.norm()) == pytest.approx(1)


def test_the_image_shows_in_the_embedding(seen, shots) -> None:
    """Massive activations must not drown it, or exactness would prove little."""
    other = torch.from_numpy(preprocess(shots[2], seen.variant.image_size)).double()
    assert F.cosine_similarity(seen.model(other), seen.outputs["head"]) < 0.98


def test_input_layouts_and_ranges_give_one_embedding(seen) -> None:
    """[-1, 1] from the graph's own range, in the patch embedding's weights."""
    expected = Stem(seen.model, UNUSUAL, "nchw", "-1..1", torch.float64)(seen.image)
    for value_range, image in _ranges(seen.image).items():
        for layout, pixels in (("nchw", image), ("nhwc", image.permute(0, 2, 3, 1))):
            stem = Stem(seen.model, UNUSUAL, layout, value_range, torch.float64)
            assert (stem(pixels) - expected).abs().max() <= EXACT
    tower = rewrite(seen.model, input_layout="nhwc", input_range="0..255", dtype=torch.float64)
    embedding = tower(_ranges(seen.image)["0..255"].permute(0, 2, 3, 1))
    assert (embedding - _expected(seen)).abs().max() <= EXACT


def _ranges(image: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"-1..1": image, "0..1": (image + 1) / 2, "0..255": (image + 1) * 127.5}


def test_scales_are_carried_and_the_stream_has_no_mean(seen) -> None:
    """What headroom relies on: a norm's input is timm's, centred, times the stream's scale."""
    tower = rewrite(seen.model, UNUSUAL, dtype=torch.float64)
    read: dict[str, torch.Tensor] = {}
    for name, module in tower.named_modules():
        if isinstance(module, ScaledLayerNorm) and not name.startswith(("stem", "pool")):
            module.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    tower(seen.image)
    assert len(read) == 2 * seen.variant.depth + 1
    for name, x in read.items():
        theirs = seen.inputs[name]
        assert x.mean(-1).abs().max() <= EXACT
        assert (x[0] / UNUSUAL.stream - (theirs - theirs.mean(-1, keepdim=True))).abs().max() <= 1e-9  # of up to 400
    assert float(tower.blocks[0].norm2.gain) == 16.0


# Towers of timm's Eva that are no Perception Encoder.

RMS = partial(timm.layers.RmsNorm, eps=1e-5)

PLAIN: dict[str, Any] = {
    "img_size": 64,
    "embed_dim": 96,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 32,
    "global_pool": "map",
    "attn_pool_num_heads": 8,
    "use_rot_pos_emb": True,
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "norm_layer": partial(nn.LayerNorm, eps=1e-5),
}


def eva(**options: Any) -> Any:
    """An Eva tower in float64 with every parameter away from its neutral value."""
    model = Eva(**(PLAIN | options)).double().eval()
    generator = torch.Generator().manual_seed(11)
    for name, p in model.named_parameters():
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
            if name.endswith("weight") and p.ndim == 1:
                p += 1
    return model.requires_grad_(False)


def test_rewriting_leaves_the_model_as_it_was() -> None:
    model = eva(init_values=0.1, num_reg_tokens=2)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(12))
    before, expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model(image)
    tower = rewrite(model, UNUSUAL, dtype=torch.float64)
    for tensor in (*tower.parameters(), *tower.buffers()):
        tensor.zero_()  # nor do they share memory
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (model(image) - expected).abs().max() <= EXACT


@pytest.mark.parametrize("by_block", [False, True], ids=["whole", "by block"])
@pytest.mark.parametrize(
    "options",
    [
        {"attn_type": "eva"},  # eva02's: q_bias and v_bias beside the Linear
        {"attn_type": "eva", "qkv_fused": False},
        {"qkv_fused": False, "qkv_bias": False},
        {"init_values": 0.1},  # LayerScale
        {"init_values": 0.1, "attn_only_layer_scale": True},
        {"num_reg_tokens": 2},
        {"num_reg_tokens": 2, "class_token": False},
        {"no_embed_class": True},
        {"use_rot_pos_emb": False},
        {"use_pre_transformer_norm": False},
        {"rope_grid_indexing": "xy", "rope_grid_offset": 1.0},
        {"norm_layer": partial(nn.LayerNorm, eps=1e-3, elementwise_affine=False)},
        {"img_size": (64, 96)},
        {"global_pool": "avg"},  # eva02's: no norm behind the blocks, one behind the mean
        {"global_pool": "avg", "use_fc_norm": False},
        {"global_pool": "avg", "use_fc_norm": False, "use_post_transformer_norm": False, "num_reg_tokens": 2},
        {"global_pool": "token"},
        {"global_pool": "avg", "swiglu_mlp": True, "attn_type": "eva", "qkv_fused": False},
        {"swiglu_mlp": True, "swiglu_align_to": 8},
        {"rope_rotate_half": True},
        {"rope_type": "dinov3", "rope_rotate_half": True, "use_abs_pos_emb": False, "init_values": 0.1},
        {"rope_type": "mixed", "rope_grid_indexing": "xy"},
        {"rope_type": "mixed", "qk_norm": True, "img_size": (64, 96)},
        {"dynamic_img_size": True, "img_size": (64, 96)},
        {"dynamic_img_size": True, "rope_type": "dinov3", "rope_rotate_half": True},
        {"qk_norm": True},
        {"qk_norm": True, "rope_rotate_half": True},
        {"qk_norm": True, "use_rot_pos_emb": False, "attn_type": "eva"},
        {"qkv_fused": False, "num_kv_heads": 1},
        {"qkv_fused": False, "num_kv_heads": 1, "qk_norm": True, "num_heads": 4},
        {"scale_attn_inner": True},
        {"scale_mlp": True},
        {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True},
        {"norm_layer": RMS, "use_pre_transformer_norm": False, "global_pool": "token", "qk_norm": True},
        {"norm_layer": RMS, "use_pre_transformer_norm": False, "global_pool": "avg", "scale_mlp": True},
        {"use_post_norm": True},
        {"use_post_norm": True, "use_pre_transformer_norm": False, "global_pool": "token", "swiglu_mlp": True},
        {"use_post_norm": True, "norm_layer": RMS, "use_pre_transformer_norm": False, "global_pool": "token"},
        {"use_post_norm": True, "scale_attn_inner": True, "scale_mlp": True, "swiglu_mlp": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("keep", [False, True], ids=["folded", "norm weights kept"])
def test_other_eva_towers(options: dict[str, Any], keep: bool, by_block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_block:
        monkeypatch.setattr("validate.exactness.WHOLE_TOWER_PARAMETERS", 0)
    model = eva(**options)
    height, width = model.patch_embed.img_size
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(12))
    assert max_difference(model, UNUSUAL, image, keep_norm_weights=keep) <= EXACT


@pytest.mark.parametrize(
    "options",
    [
        {"global_pool": "token"},
        {"global_pool": "avg"},
        {"global_pool": "avg", "use_fc_norm": False, "use_post_transformer_norm": False},
        {"global_pool": "map"},
        {"global_pool": "token", "num_reg_tokens": 2, "use_pre_transformer_norm": False, "use_post_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("keep", [False, True], ids=["folded", "norm weights kept"])
def test_a_tower_without_a_projection_gives_its_pooled_tokens(options: dict[str, Any], keep: bool) -> None:
    model = eva(num_classes=0, **options)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(12))
    for output in (Output("embedding"), Output("both", 0), Output("both")):
        assert max_difference(model, UNUSUAL, image, output, keep_norm_weights=keep) <= EXACT
    with pytest.raises(UnsupportedTowerError, match=r"^head: a classifier that is not there"):
        rewrite(model, output=Output("logits"))


def test_a_tower_of_any_image_size_gets_the_grid_it_was_built_for() -> None:
    """`dynamic_img_size`: timm's table follows the image, the rewritten tower's the size it was set to."""
    model = eva(dynamic_img_size=True, rope_type="dinov3", rope_rotate_half=True, img_size=64)
    model.set_input_size((96, 48))
    image = torch.randn(1, 3, 96, 48, generator=torch.Generator().manual_seed(12))
    assert max_difference(model, UNUSUAL, image) <= EXACT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_layer": partial(timm.layers.RmsNorm, eps=1e-5)}, "norm_pre: a RmsNorm"),
        ({"norm_layer": timm.layers.SimpleNorm, "use_pre_transformer_norm": False}, "norm: a SimpleNorm"),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, "patch_embed: padding"),
        ({"global_pool": "max"}, "attn_pool: global_pool='max'"),
        ({"global_pool": "avgmax"}, "attn_pool: global_pool='avgmax'"),
        ({"use_fc_norm": True, "use_post_transformer_norm": True}, "fc_norm: "),
        ({"global_pool": "avg", "use_post_transformer_norm": True}, "fc_norm: a norm behind a norm"),
        ({"use_post_transformer_norm": False}, "norm: "),
        ({"rope_type": "mrope", "num_heads": 1, "depth": 1}, "rope: "),
        ({"in_chans": 4}, "patch_embed"),
    ],
    ids=str,
)
def test_what_has_no_rewrite_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedTowerError, match=f"^({message})"):
        rewrite(eva(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_len": 2}, "attn_pool: 2 latents"),
        ({"pos_embed": "abs", "feat_size": 17}, "attn_pool.pos_embed: "),
        ({"qk_norm": True}, "attn_pool.k_norm: "),
        ({"norm_layer": None}, "attn_pool.norm: "),
        ({"out_features": 0}, "attn_pool"),
        ({"act_layer": nn.ReLU}, "attn_pool.mlp.act: ReLU"),
        ({"act_layer": partial(nn.GELU, approximate="tanh")}, "attn_pool.mlp.act: "),
    ],
    ids=str,
)
def test_pools_that_have_no_rewrite(options: dict[str, Any], message: str) -> None:
    model = eva()
    model.attn_pool = AttentionPoolLatent(96, **({"num_heads": 8, "norm_layer": nn.LayerNorm} | options))
    with pytest.raises(UnsupportedTowerError, match=f"^{message}"):
        rewrite(model)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU("tanh")], ids=str)
def test_another_activation_is_refused(act: nn.Module) -> None:
    model = eva()
    model.blocks[1].mlp.act = act
    with pytest.raises(UnsupportedTowerError, match=r"^blocks\.1\.mlp\.act: "):
        rewrite(model)


@pytest.mark.parametrize("act", [nn.GELU(), nn.Sigmoid()], ids=str)
def test_another_gate_is_refused(act: nn.Module) -> None:
    model = eva(swiglu_mlp=True)
    model.blocks[0].mlp.act = act
    with pytest.raises(UnsupportedTowerError, match=r"^blocks\.0\.mlp\.act: "):
        rewrite(model)


def test_gated_attention_is_refused() -> None:
    model = eva()
    model.blocks[0].attn.gate = nn.Linear(96, 96)
    with pytest.raises(UnsupportedTowerError, match=r"^blocks\.0\.attn\.gate: gated attention"):
        rewrite(model)
