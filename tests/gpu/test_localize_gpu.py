"""`validate.localize` on the real delegate: an fp16 overflow is found where it happens."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate.ablation_variants import ROWS, ablated
from pecore.validate.expose_tensors import expose
from pecore.validate.graph import read_graph
from pecore.validate.localize import Localization, cpu_runner, gpu_runner, localize, torch_reference
from pecore.validate.photographs import photographs
from pecore.variants import find

pytestmark = pytest.mark.gpu

TINY = dataclasses.replace(find("T16"), depth=3, image_size=64)  # block 1 makes the massive activations


def build():
    return build_tower(TINY, synthetic_state_dict(TINY, amplitude=400.0))


def search(convert, name: str, tower: nn.Module) -> Localization:
    inputs = {"image": preprocess(next(photographs())[1], TINY.image_size)}
    path = convert(name, tower, torch.from_numpy(inputs["image"]))
    runners = {"fp16": gpu_runner("fp16"), "fp32": gpu_runner("fp32")}
    return localize(path, inputs, runners, ("PyTorch", torch_reference(tower, inputs)))


def test_plain_layernorm_overflows_in_the_block_after_the_massive_one(convert):
    in_fp16 = next(row for row in ROWS if row.name == "eps")  # as one kernel, its sums are fp32
    found = search(convert, "plain", ablated(in_fp16, build(), Scales(stream=1.0)))
    assert not found.broken
    assert not found.skipped
    assert found.first["cpu"] is None
    assert found.first["fp32"] is None
    row = found.first["fp16"]
    assert (row.step.part, row.step.name) == ("Block 2", "norm1")
    assert row.errors["fp16"].nonfinite > 0
    assert row.largest > 65504
    # The block's output is finite again and correlates: only the channel error shows what became of it.
    block = next(r for r in found.parts if r.step.part == "Block 2").errors["fp16"]
    assert block.nonfinite == 0
    assert block.correlation > 0.999
    assert block.channel > 0.2


def test_scaled_layernorm_is_sound_in_every_part(convert):
    found = search(convert, "scaled", rewrite(build(), Scales()))
    assert found.sound
    assert len(found.parts) == 7
    # fp16 has 11 bits: 5e-4 for a rounding, some twenty of them to the end; fp32 sums in another order.
    assert max(row.errors["fp16"].size for row in found.parts) < 0.015
    assert max(row.errors["fp32"].size for row in found.parts) < 1e-5


class Averaged(nn.Module):
    """x + f(x), read by a mean alone: the delegate gets that ADD wrong where it is an output as well
    (`add-read-twice`)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(32, 32)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image + self.linear(image)
        return x.mean(-1, keepdim=True) * 2


def test_a_sum_that_a_mean_reads_is_exposed_as_it_is(convert, tmp_path):
    inputs = {"image": np.random.default_rng(0).standard_normal((1, 1, 16, 32)).astype(np.float32)}
    path = convert("averaged", Averaged(), torch.from_numpy(inputs["image"]))
    graph = read_graph(path)
    add = next(op for op in graph.ops if op.name == "ADD")
    names = expose(graph, [add.outputs[0]], tmp_path / "exposed.tflite")
    cpu, gpu = (run(tmp_path / "exposed.tflite", inputs) for run in (cpu_runner, gpu_runner("fp32")))
    for name in names.values():
        np.testing.assert_allclose(gpu[name], cpu[name], atol=1e-5)
