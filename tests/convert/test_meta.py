"""Meta's original checkpoint, all the way: a `.pt` with Meta's keys -> timm's tower -> rewrite -> `.tflite`.

What it is held against is Meta's vision tower in words of our own, after `core/vision_encoder/pe.py` and `rope.py` of
facebookresearch/perception_models; it shares no line with timm.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import rewrite
from pecore.runtime import open_model
from pecore.variants import Variant, find

State = dict[str, Tensor]
EPS = 1e-5


def meta_state(v: Variant) -> State:
    """Random weights under Meta's keys, LayerNorms and biases away from neutral."""
    c, generator = v.width, torch.Generator().manual_seed(13)

    def draw(*shape: int, std: float = 0.1, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * std + mean

    def linear(name: str, inputs: int, outputs: int) -> State:
        return {f"{name}.weight": draw(outputs, inputs, std=inputs**-0.5), f"{name}.bias": draw(outputs)}

    def norm(name: str) -> State:
        return {f"{name}.weight": draw(c, std=0.2, mean=1.0), f"{name}.bias": draw(c)}

    def attention(name: str) -> State:
        projection = {f"{name}.in_proj_weight": draw(3 * c, c, std=1.5 * c**-0.5), f"{name}.in_proj_bias": draw(3 * c)}
        return projection | linear(f"{name}.out_proj", c, c)

    def mlp(name: str, width: int) -> State:
        return linear(f"{name}.c_fc", c, width) | linear(f"{name}.c_proj", width, c)

    state = {
        "conv1.weight": draw(c, 3, v.patch, v.patch, std=(3 * v.patch**2) ** -0.5),
        "positional_embedding": draw(v.tokens, c, std=0.3),
        "proj": draw(c, v.embedding_dim, std=c**-0.5),
        "attn_pool.probe": draw(1, 1, c, std=1.0),
    }
    if v.class_token:
        state["class_embedding"] = draw(c, std=0.3)
    state |= norm("ln_pre") | norm("ln_post") | norm("attn_pool.layernorm")
    state |= attention("attn_pool.attn") | mlp("attn_pool.mlp", 4 * c)
    for i in range(v.depth):
        block = f"transformer.resblocks.{i}"
        state |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2") | attention(f"{block}.attn")
        state |= mlp(f"{block}.mlp", v.mlp_width)
    return state


def meta_forward(v: Variant, w: State, image: Tensor) -> Tensor:
    """Meta's tower: `[1, 3, s, s]` in [-1, 1] -> `[1, D]`, before normalisation."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return d / (d.square().mean(-1, keepdim=True) + EPS).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def mlp(name: str, x: Tensor) -> Tensor:
        hidden = linear(f"{name}.c_fc", x)
        return linear(f"{name}.c_proj", hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)

    def attention(name: str, x: Tensor, context: Tensor, heads: int, angles: Tensor | None) -> Tensor:
        weight, bias = w[f"{name}.in_proj_weight"].chunk(3), w[f"{name}.in_proj_bias"].chunk(3)
        sources = (x, context, context)
        q, k, values = ((s @ m.T + b).unflatten(1, (heads, -1)) for s, m, b in zip(sources, weight, bias))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        scores = torch.einsum("nhd,mhd->hnm", q, k) / math.sqrt(q.shape[-1])
        return linear(f"{name}.out_proj", torch.einsum("hnm,mhd->nhd", scores.softmax(-1), values).flatten(1))

    side = v.image_size // v.patch
    patches = image.unfold(2, v.patch, v.patch).unfold(3, v.patch, v.patch)[0].permute(1, 2, 0, 3, 4)
    x = patches.reshape(side * side, -1) @ w["conv1.weight"].flatten(1).T
    if v.class_token:
        x = torch.cat([w["class_embedding"][None], x])
    x = norm("ln_pre", x + w["positional_embedding"])
    angles = rope_angles(v, side).to(x.dtype)
    for i in range(v.depth):
        block = f"transformer.resblocks.{i}"
        y = norm(f"{block}.ln_1", x)
        x = x + attention(f"{block}.attn", y, y, v.heads, angles)
        x = x + mlp(f"{block}.mlp", norm(f"{block}.ln_2", x))
    x = norm("ln_post", x)
    pooled = attention("attn_pool.attn", w["attn_pool.probe"][0], x, v.pool_heads, None)
    pooled = pooled + mlp("attn_pool.mlp", norm("attn_pool.layernorm", pooled))
    return pooled @ w["proj"]


def rope_angles(v: Variant, side: int) -> Tensor:
    """`[tokens, head_dim / 2]`: x's angles, then y's; the grid starts at 1 where a class token takes 0."""
    quarter = v.head_dim // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    steps = (torch.arange(side, dtype=torch.float64) + v.class_token)[:, None] * frequencies
    y, x = steps[:, None].expand(side, side, -1), steps[None].expand(side, side, -1)
    grid = torch.cat([x, y], -1).flatten(0, 1)
    return torch.cat([torch.zeros(1, grid.shape[1]).double(), grid]) if v.class_token else grid


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Each pair of neighbouring channels of `[N, heads, d]` as a complex number, turned by its angle."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    return torch.view_as_real(turned).flatten(-2)


# Two blocks, at the full image size: timm stretches RoPE's grid to that of the size it was trained at.
WITH_CLASS_TOKEN = replace(find("T16"), depth=2)
WITHOUT = replace(find("G14"), depth=2, width=192, heads=3, mlp_width=320, embedding_dim=64)


@pytest.mark.parametrize("variant", [WITH_CLASS_TOKEN, WITHOUT], ids=["class token", "none"])
def test_timm_s_tower_from_meta_s_file_is_meta_s_tower(variant: Variant, shots, tmp_path: Path) -> None:
    """All in float64 but for timm's RoPE table, which it computes in float32: hence the tolerance."""
    state = meta_state(variant)
    torch.save({f"visual.{key}": tensor for key, tensor in state.items()}, tmp_path / "PE-Core.pt")
    weights = load(variant, tmp_path / "PE-Core.pt")
    assert weights.kind == "meta"
    image = torch.from_numpy(preprocess(shots[0], variant.image_size)).double()
    exact = {key: tensor.double() for key, tensor in state.items()}
    expected = meta_forward(variant, exact, image)
    ours = build_tower(variant, weights.state_dict, dtype=torch.float64)(image)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    mirrored = meta_forward(variant, exact, image.transpose(2, 3))
    assert F.cosine_similarity(mirrored, expected) < 0.99  # x and y are told apart


def test_meta_s_file_to_tflite(shots, tmp_path: Path) -> None:
    """The embedding on photographs, in float32 against float64: 2e-6 of a vector of length 1."""
    variant = WITH_CLASS_TOKEN
    state = meta_state(variant)
    torch.save(state, tmp_path / "PE-Core.pt")  # the vision tower alone: no prefix
    tower = rewrite(build_tower(variant, load(variant, tmp_path / "PE-Core.pt").state_dict))
    images = [preprocess(shot, variant.image_size) for shot in shots]
    export_tflite(tower, {"image": torch.from_numpy(images[0])}, tmp_path / "meta.tflite")
    model = open_model(tmp_path / "meta.tflite")
    exact = {key: tensor.double() for key, tensor in state.items()}
    for image in images:
        expected = F.normalize(meta_forward(variant, exact, torch.from_numpy(image).double()), dim=-1)
        embedding = model.run({"image": image})["embedding"]
        assert float(np.abs(embedding - expected.numpy()).max()) <= 2e-6
