"""Which weights fp16 keeps as subnormal numbers."""

import dataclasses

import pytest
import torch
from torch import nn

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate.subnormal import subnormal_weights
from pecore.variants import find


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(2, 2)}) for _ in range(2))


def test_kinds_are_counted_over_blocks_and_a_real_zero_is_no_loss():
    pair = Pair()
    with torch.no_grad():
        pair.blocks[0]["proj"].weight.copy_(torch.tensor([[0.0, 1.0], [2.0**-14, 2.0**-15]]))  # the third is normal
        pair.blocks[1]["proj"].weight.copy_(torch.tensor([[2.0**-24, 2.0**-26], [-1.0, -(2.0**-20)]]))
    (found,) = subnormal_weights(pair)
    assert (found.kind, found.weights, found.subnormal, found.zero) == ("blocks.*.proj", 8, 3, 1)
    assert found.share == 0.5
    assert found.lost == pytest.approx(2.0**-15 / 2**0.5, rel=1e-3)


def test_a_small_stream_scale_pushes_the_weights_that_carry_it_down():
    tiny = dataclasses.replace(find("T16"), depth=2, image_size=64)
    model = build_tower(tiny, synthetic_state_dict(tiny))
    lost = {
        stream: {s.kind: s.lost for s in subnormal_weights(rewrite(model, Scales(stream=stream)))}
        for stream in (1.0, 1 / 32, 1 / 512)
    }
    for kind in ("blocks.*.attn.proj", "blocks.*.mlp.fc2"):
        assert lost[1.0][kind] < 1e-3 < lost[1 / 32][kind] < 0.1 < lost[1 / 512][kind]
    assert lost[1.0]["blocks.*.attn.qkv"] == pytest.approx(lost[1 / 512]["blocks.*.attn.qkv"])
    assert not any("swap" in kind for kind in lost[1.0])
