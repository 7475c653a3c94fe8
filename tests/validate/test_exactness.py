"""Gate 1's measure: it finds nothing where there is nothing, by either path, and names the part that is off."""

import copy
from typing import Any

import pytest
import torch

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites import tower as rewrites
from pecore.rewrites.tower import Scales
from pecore.validate import exactness
from pecore.validate.exactness import LARGEST_DIFFERENCE, block_differences, max_difference

SCALES = Scales(stem=4.0, stream=2.0**-7, gains={"blocks.0.norm2": 16.0}, pool=2.0, head=0.125)


def test_every_size_block_by_block(seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is fed what timm's tower feeds its own, so nothing between them goes unseen."""
    fed = []
    original = exactness._stream
    monkeypatch.setattr(exactness, "_stream", lambda x, centre: fed.append(x) or original(x, centre))
    found = block_differences(seen.model, SCALES, seen.image, keep_norm_weights=True)
    assert list(found) == ["stem", "blocks.0", "blocks.1", "tail"]
    assert max(found.values()) <= LARGEST_DIFFERENCE
    for name in ("blocks.0.norm1", "blocks.1.norm1", "norm"):
        theirs = seen.inputs[name]  # of another run in float64, of values up to 400
        assert any(x.shape == theirs.shape and (x - theirs).abs().max() < 1e-9 for x in fed), name


@pytest.fixture(scope="module")
def tower(small) -> tuple[Any, Scales, torch.Tensor]:
    """What `max_difference` takes, of a float32 tower as checkpoints are."""
    variant = small("T16")
    image = torch.linspace(-1, 1, 3 * variant.image_size**2).reshape(1, 3, variant.image_size, -1)
    return build_tower(variant, synthetic_state_dict(variant)), SCALES, image


def test_the_size_decides_the_path(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "WHOLE_TOWER_PARAMETERS", 10**6)
    monkeypatch.setattr(exactness, "block_differences", lambda *_, **__: {"stem": 1.0, "tail": 2.0})
    assert max_difference(*tower) == 2.0
    monkeypatch.setattr(exactness, "WHOLE_TOWER_PARAMETERS", 10**7)
    assert max_difference(*tower) <= LARGEST_DIFFERENCE


def test_a_float32_tower_of_full_depth(converted) -> None:
    """Compared in float64 all the same, and left as it was."""
    before = copy.deepcopy(converted.model.state_dict())
    assert (
        0
        < max_difference(converted.model, converted.scales, converted.image, keep_norm_weights=True)
        <= LARGEST_DIFFERENCE
    )
    assert all(torch.equal(t, before[name]) for name, t in converted.model.state_dict().items())
    assert {p.dtype for p in converted.model.parameters()} == {torch.float32}


def test_one_wrong_weight_is_found(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 1.6 million, by a ten-thousandth of itself."""

    def spoilt(*args, **kwargs):
        tower = rewrites.rewrite(*args, **kwargs)
        tower.blocks[1].attn.qkv.weight[300, 20] *= 1 + 1e-4
        return tower

    monkeypatch.setattr(exactness, "rewrite", spoilt)
    assert max_difference(*tower) > LARGEST_DIFFERENCE


def test_one_wrong_block_is_named(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    original = rewrites.rewrite_block

    def spoilt(model, index, *args, **kwargs):
        block = original(model, index, *args, **kwargs)
        if index == 1:
            block.mlp.fc2.bias[3] += 1e-6
        return block

    monkeypatch.setattr(rewrites, "rewrite_block", spoilt)
    assert [name for name, value in block_differences(*tower).items() if value > LARGEST_DIFFERENCE] == ["blocks.1"]


def test_float32_would_not_pass(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar lies between float64's rounding and float32's: a fold done in float32 does not get under it."""
    monkeypatch.setattr(exactness, "rewrite", lambda *args, dtype, **kwargs: rewrites.rewrite(*args, **kwargs).double())
    assert LARGEST_DIFFERENCE < max_difference(*tower) < 1e-5


def test_a_small_scale_hides_nothing(tower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, differences are divided by the stream's scale again."""
    model, _, image = tower
    original = rewrites.Stem

    def spoilt(*args, **kwargs):
        stem = original(*args, **kwargs)
        stem.bias[0] += 1e-6 * scales.stream
        return stem

    monkeypatch.setattr(rewrites, "Stem", spoilt)
    for scales in (Scales(stream=1.0), Scales(stream=2.0**-20)):
        assert block_differences(model, scales, image)["stem"] == pytest.approx(1e-6, rel=1e-3)
