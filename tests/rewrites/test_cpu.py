"""Slices for the CPU: timm's function, and nothing that a rule refuses or distrusts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rewrites.cpu import SlicedLinear, SlicedMlp

from convert.export import export_tflite
from convert.synthetic import synthetic_state_dict
from convert.variants import build_tower
from pecore.preprocess import preprocess
from rewrites.tower import rewrite
from validate.graph import read_graph
from validate.rules import check


@pytest.mark.parametrize("size", ["T16", "B16", "G14"])
def test_slices_compute_what_timm_computes(size: str, small: Callable[..., Any], shots: list[Any]) -> None:
    variant = small(size)
    model = build_tower(variant, synthetic_state_dict(variant), dtype=torch.float64)
    image = torch.from_numpy(preprocess(shots[0], variant.image_size)).double()
    with torch.no_grad():
        ours, theirs = rewrite(model, dtype=torch.float64, sliced=True)(image), F.normalize(model(image), dim=-1)
    assert float((ours - theirs).abs().max()) < 1e-10


@pytest.mark.parametrize(("size", "sliced"), [("S16", False), ("B16", True)])
def test_small_linears_stay_whole(size: str, sliced: bool, small: Callable[..., Any]) -> None:
    variant = small(size)
    tower: Any = rewrite(build_tower(variant, synthetic_state_dict(variant)), sliced=True)
    for block in tower.blocks:
        assert isinstance(block.attn.qkv, SlicedLinear) == isinstance(block.mlp, SlicedMlp) == sliced
        if sliced:
            assert (len(block.attn.qkv.parts), len(block.mlp.fc1)) == (3, 4)


def test_no_rule_has_anything_against_them(small: Callable[..., Any], tmp_path) -> None:
    variant = small("B16")
    tower = rewrite(build_tower(variant, synthetic_state_dict(variant)), sliced=True)
    image = torch.zeros(1, 3, variant.image_size, variant.image_size)
    export_tflite(tower, {"image": image}, tmp_path / "t.tflite")
    assert check(read_graph(tmp_path / "t.tflite")) == []
