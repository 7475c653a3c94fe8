"""The claim itself: whole towers on the real delegate, every op, right in fp16. Synthetic weights."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.precision import Compute
from pecore.rewrites.tower import rewrite
from pecore.runtime import open_model
from pecore.validate import gates, headroom
from pecore.validate.checks import Check
from pecore.validate.photographs import photographs
from pecore.variants import find

pytestmark = pytest.mark.gpu


def on_gpu(
    folder: Path,
    size: str,
    computes: tuple[Compute, ...] = ("fp16",),
    samples: int = 1,
    precision: str = "fp16",
    amplitude: float = 400.0,
    **reduced: int,
) -> list[Check]:
    """Convert a tower with scales from its own headroom, and run it through the GPU gate."""
    variant = dataclasses.replace(find(size), **reduced)
    model = build_tower(variant, load(variant, "synthetic", amplitude=amplitude).state_dict)
    images = [preprocess(image, variant.image_size) for _, image in photographs()][:samples]
    scales, _ = headroom.fit_scales(model, [torch.from_numpy(image) for image in images])
    tower = rewrite(model, scales, keep_norm_weights=precision == "int8")
    del model
    source, path = folder / "source.tflite", folder / "tower.tflite"
    export_tflite(tower, {"image": torch.from_numpy(images[0])}, source)
    quantize(source, path, precision)
    source.unlink()
    inputs = [{"image": image} for image in images]
    cpu = open_model(path)
    outputs = [cpu.run(sample) for sample in inputs]
    return [gates.gpu_gate(path, precision, compute, inputs, outputs, required=True) for compute in computes]


def assert_resident(check: Check, correlation: float) -> None:
    assert check.outcome == "passed", check.detail
    assert check.figures["ops_on_gpu"] == check.figures["ops"] > 0
    assert check.figures["correlation"] >= correlation
    assert check.figures["norm_error"] <= 2e-3


def test_b16_in_full_on_two_photographs(tmp_path):
    (fp16,) = on_gpu(tmp_path, "B16", samples=2)
    assert fp16.figures["ops"] <= 550
    assert_resident(fp16, 0.99995)


def test_t16_in_full(tmp_path):
    """S16 has the same ops, and costs CI two minutes more: `benchmarks.family --bundles` has it."""
    fp16, fp32 = on_gpu(tmp_path, "T16", ("fp16", "fp32"))
    assert_resident(fp16, 0.9999)
    assert_resident(fp32, 0.9999999)


def test_l14_two_blocks(tmp_path):
    assert_resident(*on_gpu(tmp_path, "L14", depth=2), 0.9999)


def test_g14_two_blocks(tmp_path):
    """At 224 pixels instead of 448: the same ops on a quarter of the tokens, which a software driver gets through."""
    assert_resident(*on_gpu(tmp_path, "G14", depth=2, image_size=224), 0.9999)


@pytest.mark.parametrize(
    ("size", "amplitude", "reduced"),
    [
        ("T16", 20000.0, {}),
        ("B16", 20000.0, {"depth": 4}),
        ("B16", 8000.0, {"depth": 4, "image_size": 96}),  # the stream carries 1 there, and 1/2 at 20000
    ],
)
def test_large_amplitudes(tmp_path, size, amplitude, reduced):
    """Where a plain LayerNorm gives NaN and the published form has collapsed."""
    assert_resident(*on_gpu(tmp_path, size, amplitude=amplitude, **reduced), 0.9999)


def test_int8_b16_four_blocks(tmp_path):
    """The rest are the same ops again: `convert_pecore.py --size B16 --precision int8` puts them all through."""
    assert_resident(*on_gpu(tmp_path, "B16", precision="int8", depth=4), 0.999)
