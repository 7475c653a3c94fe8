import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
from skimage import data
from torch.nn import Identity

from pecore.convert.synthetic import fill, massive_channels, normal, synthetic_state_dict
from pecore.convert.towers import build_tower, tower_shapes
from pecore.errors import InputError
from pecore.image import preprocess
from pecore.variants import VARIANTS, Variant, find

TINY = replace(find("T16"), depth=2, image_size=64)
FOUR = replace(find("B16"), depth=4)


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    return torch.cat(
        [torch.from_numpy(preprocess(load(), FOUR.image_size)) for load in (data.astronaut, data.cat, data.coffee)]
    )


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(state_dict[k].numpy().tobytes() for k in sorted(state_dict))).hexdigest()


def outputs(
    tower: torch.nn.Module, names: list[str], images: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    handles = [tower.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    embedding = tower(images)
    for handle in handles:
        handle.remove()
    return seen, embedding


def test_bytes_are_the_same_everywhere() -> None:
    assert digest(synthetic_state_dict(TINY)) == "3b6f4076e21a786a2ea09500ee7a6b9933de673023d222d57ec9c9100a8fce09"


def test_seed_and_amplitude_matter() -> None:
    digests = {digest(synthetic_state_dict(TINY, seed, amplitude)) for seed in (0, 1) for amplitude in (0, 400)}
    assert len(digests) == 4


def test_a_shallower_tower_has_the_deeper_one_s_blocks() -> None:
    deep = synthetic_state_dict(replace(TINY, depth=3), amplitude=0)
    shallow = synthetic_state_dict(TINY, amplitude=0)
    assert all(torch.equal(t, deep[key]) for key, t in shallow.items())
    assert len(deep) > len(shallow)


def test_draws_are_close_to_normal() -> None:
    z = normal("a", (1000, 1000), 0)
    fourth = 3 - 6 / 5 / 4  # of the sum of four uniforms
    assert [z.mean(), z.var(), (z**4).mean()] == pytest.approx([0, 1, fourth], abs=0.01)  # 5 sigma or more
    assert abs(torch.corrcoef(torch.stack([z.flatten(), normal("b", (1000, 1000), 0).flatten()]))[0, 1]) < 0.005
    assert not torch.equal(z[:, :3], normal("a", (1000, 3), 1))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.size)
def test_loads_into_timm_with_nothing_left_neutral(variant: Variant) -> None:
    small = replace(variant, depth=1, image_size=2 * variant.patch)
    state_dict = synthetic_state_dict(small)
    tower = build_tower(small, state_dict)  # strict
    image = torch.linspace(-1, 1, 3 * small.image_size**2).reshape(1, 3, small.image_size, -1)
    stream: list[torch.Tensor] = []
    tower.blocks[0].register_forward_hook(lambda module, args, out: stream.append(out))
    tower(image)
    assert 300 < stream[0].abs().max() < 500  # LayerScale or not, massive activations of 400
    for key, tensor in state_dict.items():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert tensor.std() > 0.005, key
        neutral = 1.0 if ("norm" in key and key.endswith("weight")) or "gamma" in key else 0.0
        assert (tensor != neutral).float().mean() > 0.99, key


def test_full_depth_has_every_key() -> None:
    state_dict = synthetic_state_dict(find("T16"))
    assert {key: tuple(t.shape) for key, t in state_dict.items()} == tower_shapes(find("T16"))


@pytest.mark.parametrize("amplitude", [0.0, 400.0, 20000.0])
def test_statistics_of_a_trained_tower(amplitude: float, photographs: torch.Tensor) -> None:
    state_dict = synthetic_state_dict(FOUR, amplitude=amplitude)
    tower = build_tower(FOUR, state_dict)
    blocks = [f"blocks.{i}" for i in range(FOUR.depth)]
    norms = [f"{block}.norm{n}" for block in blocks for n in (1, 2)] + ["norm"]
    seen, embedding = outputs(tower, blocks + norms + [f"{b}.attn.qkv" for b in blocks], photographs)
    massive = massive_channels(FOUR.width, 0)
    ordinary = [c for c in range(FOUR.width) if c not in massive]

    # Massive activations: where they should be, as large as asked for, and compensated by the norms after them.
    assert seen["blocks.0"].abs().max() < 50
    for block in blocks[1:]:
        stream = seen[block]
        if amplitude:
            assert amplitude / 2 < stream.abs().max() < 2 * amplitude
            assert stream[..., massive].abs().amin() > amplitude / 2
        assert stream[..., ordinary].abs().max() < 50
    for norm in norms:
        assert 0.7 < seen[norm][..., ordinary].square().mean() < 1.5
        assert seen[norm][..., massive].abs().max() < 6

    # Each block sees the image, and changes what the next one sees.
    for before, block in pairwise(blocks):
        stream = seen[block][..., ordinary]
        assert F.cosine_similarity(stream[0].flatten(), stream[1].flatten(), dim=0) < 0.8
        assert (stream - seen[before][..., ordinary]).norm() > 0.3 * seen[before][..., ordinary].norm()
    for block in blocks:
        q, k, _ = seen[f"{block}.attn.qkv"].reshape(3, FOUR.tokens, 3, FOUR.heads, FOUR.head_dim).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / math.sqrt(FOUR.head_dim)).softmax(-1)  # without RoPE, which keeps the logits' spread
        assert 0.02 < attention.amax(-1).mean() < 0.5  # uniform would be 0.005, one-hot 1
    similarity = F.cosine_similarity(embedding[:, None], embedding[None], dim=-1)
    assert embedding.isfinite().all()
    assert similarity[~torch.eye(3, dtype=torch.bool)].max() < 0.98

    # Well conditioned: float32 is as good as exact, so a gate measures the conversion and not the weights.
    exact = build_tower(FOUR, state_dict, dtype=torch.float64)(photographs[:1].double())
    assert F.cosine_similarity(embedding[:1].double(), exact) > 1 - 1e-9


def test_massive_channels_follow_the_seed() -> None:
    drawn = [massive_channels(FOUR.width, seed) for seed in range(3)]
    assert all(len(set(channels)) == 4 for channels in drawn)
    assert len({tuple(channels) for channels in drawn}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "eva02_tiny_patch14_224",  # SwiGLU without a norm: it squares whatever the norms before it give too much
        "eva02_base_patch14_224",
        "eva02_enormous_patch14_clip_224",
        "vit_tiny_patch16_dinov3_qkvb",
        "vit_small_patch16_rope_mixed_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_other_towers_are_as_well_conditioned(name: str) -> None:
    """Twelve narrow blocks: the norms give what a trained tower's give, and float32 is as good as exact."""
    side = 4 * (14 if "patch14" in name else 16)
    form = {"depth": 12, "img_size": side, "embed_dim": 192, "num_heads": 4}
    tower, again = (fill(timm.create_model(name, **form).eval(), 400.0, seed=3).requires_grad_(False) for _ in range(2))
    assert digest(tower.state_dict()) == digest(again.state_dict())
    photo, other = (torch.from_numpy(preprocess(load(), side)) for load in (data.astronaut, data.cat))
    massive = massive_channels(tower.embed_dim, 3)
    ordinary = [c for c in range(tower.embed_dim) if c not in massive]
    blocks = [f"blocks.{i}" for i in range(12)]
    norms = [f"{block}.norm{n}" for block in blocks for n in (1, 2)] + ["norm"]
    seen, _ = outputs(tower, [*blocks, *(n for n in norms if not isinstance(tower.get_submodule(n), Identity))], photo)
    for block in blocks:
        assert seen[block][..., massive].abs().max() == pytest.approx(400, rel=0.1)
        assert 0.5 < seen[block][..., ordinary].square().mean() < 50
    for norm in norms:
        if norm in seen:
            assert 0.1 < seen[norm][..., ordinary].square().mean() < 3, norm
    features = [tower.forward_features(image) for image in (photo, other)]
    exact = tower.double().forward_features(photo.double())
    assert (features[0] - exact).abs().max() <= 1e-5 * exact.abs().max()  # 1e-4 and more before the norms were levelled
    alike = F.cosine_similarity(*(f[..., ordinary].flatten() for f in features), dim=0)
    assert alike < 0.98  # the image still shows at the end


@pytest.mark.parametrize("amplitude", [-1.0, 2e5, math.inf, math.nan])
def test_bad_amplitude(amplitude: float) -> None:
    with pytest.raises(InputError, match="amplitude"):
        synthetic_state_dict(TINY, amplitude=amplitude)
