"""Each kind of tower and output on the real delegate, every op, right in fp16: two blocks, small images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import fill, synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites import Output, rewrite
from pecore.rewrites.tower import default_output
from pecore.runtime import open_model
from pecore.validate import gates, headroom
from pecore.validate.photographs import photographs
from pecore.variants import find, resized

pytestmark = pytest.mark.gpu


def tower(name: str, amplitude: float = 400.0, grid: int = 4) -> Any:
    variant = replace(find(name), depth=2, image_size=grid * find(name).patch)
    return build_tower(variant, synthetic_state_dict(variant, amplitude=amplitude))


def larger() -> Any:
    variant = resized(replace(find("T16"), depth=2, image_size=64), 96)
    return build_tower(variant, synthetic_state_dict(variant.as_trained))


def other(name: str, **options: Any) -> Any:
    """Another tower of timm's."""
    return fill(timm.create_model(name, depth=2, **options).eval())


def resident(folder: Path, model: Any, output: Output | None = None, layout: str = "nchw", batch: int = 1) -> None:
    """Convert, run on ML Drift in fp16, and insist on every op, the numbers and a clean graph."""
    output, side = output or default_output(model), model.patch_embed.img_size[0]
    shots = [image for _, image in photographs()][:batch]
    images = [torch.from_numpy(preprocess(image, side)) for image in shots]
    scales, _ = headroom.fit_scales(model, images, output)
    given = torch.cat([torch.from_numpy(preprocess(image, side, layout=layout)) for image in shots])  # type: ignore[arg-type]
    source, path = folder / "source.tflite", folder / "tower.tflite"
    export_tflite(rewrite(model, scales, output=output, input_layout=layout), {"image": given}, source, output.names)
    quantize(source, path, "fp16")
    inputs = [{"image": given.numpy()}]
    outputs = [open_model(path).run(inputs[0])]
    assert set(outputs[0]) == set(output.names)
    check = gates.gpu_gate(path, "fp16", "fp16", inputs, outputs, required=True)
    assert check.outcome == "passed", check.detail
    assert check.figures["ops_on_gpu"] == check.figures["ops"] > 0
    assert min(v for k, v in check.figures.items() if k.endswith("correlation")) >= 0.9999
    assert gates.graph_gate(path, "2.3.0").figures["findings"] == []


@pytest.mark.parametrize("amplitude", [400.0, 20000.0])
def test_spatial_features(tmp_path: Path, amplitude: float) -> None:
    resident(tmp_path, tower("spatial-S16", amplitude))


def test_lang_with_layer_scale(tmp_path: Path) -> None:
    resident(tmp_path, tower("lang-L14", grid=2))


def test_embedding_and_features_of_a_layer_channels_last(tmp_path: Path) -> None:
    """A residual ADD that leaves the graph and that a MEAN reads, with an op of its own between."""
    resident(tmp_path, tower("T16"), Output("both", 0), "nhwc")


def test_features_through_the_final_norm(tmp_path: Path) -> None:
    resident(tmp_path, tower("T16"), Output("both"))


def test_another_image_size(tmp_path: Path) -> None:
    resident(tmp_path, larger())


def test_a_batch(tmp_path: Path) -> None:
    resident(tmp_path, tower("T16"), batch=3)


def test_a_batch_of_maps(tmp_path: Path) -> None:
    resident(tmp_path, tower("spatial-T16"), batch=2)


def test_eva02(tmp_path: Path) -> None:
    """SwiGLU, mean pooling and a norm behind it, no pool, another patch size: every op."""
    resident(tmp_path, other("eva02_tiny_patch14_224", img_size=56, num_classes=10))


def test_dinov3(tmp_path: Path) -> None:
    """RoPE by halves, registers, LayerScale, aligned SwiGLU."""
    resident(tmp_path, other("vit_small_plus_patch16_dinov3", img_size=64, dynamic_img_size=False))
