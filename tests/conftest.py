"""What the tests share: small towers of every make, photographs, and the conversions that take seconds."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pecore.convert import pipeline, tflite_files
from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.label_embeddings import write_labels
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.text_tower import load_text
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate import headroom
from pecore.variants import VARIANTS, Variant, find

DRAWINGS = Path(__file__).parent / "drawings"
SHOTS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="session")
def shots() -> list[Image.Image]:
    """Photographs, from scikit-image."""
    from skimage import data

    return [Image.fromarray(getattr(data, name)()) for name in SHOTS]


@pytest.fixture(scope="session")
def small() -> Callable[..., Variant]:
    """small(size, depth=2, grid=4): that variant's width and heads, with `depth` blocks and grid x grid patches."""
    return _small


def _small(size: str, depth: int = 2, grid: int = 4) -> Variant:
    variant = find(size)
    return replace(variant, depth=depth, image_size=grid * variant.patch)


@dataclass(frozen=True)
class Seen:
    """A small tower of timm's in float64 and what its modules read and wrote for a photograph, by their names."""

    variant: Variant
    model: Any
    image: Tensor  # [1, 3, s, s]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@pytest.fixture(scope="session", params=[v.size for v in VARIANTS if v.family == "core" and not v.packaged])
def seen(request: pytest.FixtureRequest, shots: list[Image.Image]) -> Seen:
    """Each core tower in turn, at two blocks, massive activations of 400, LayerNorms away from neutral."""
    variant = _small(request.param)
    model: Any = build_tower(variant, synthetic_state_dict(variant), dtype=torch.float64)
    image = torch.from_numpy(preprocess(shots[0], variant.image_size)).double()
    out = Seen(variant, model, image, {}, {})

    def record(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            out.inputs[name], out.outputs[name] = args[0], output

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return out


@dataclass(frozen=True)
class Converted:
    """T16 at its full depth with massive activations of 400, 64 x 64 pixels, converted with the scales it asks for.

    files: by (precision of the weights, norm weights kept).
    """

    variant: Variant
    model: Any
    scales: Scales
    reductions: list[headroom.Reduction]
    inputs: list[dict[str, np.ndarray]]
    reference: list[dict[str, np.ndarray]]
    files: dict[tuple[str, bool], Path]

    @property
    def image(self) -> Tensor:
        return torch.from_numpy(self.inputs[0]["image"])


@pytest.fixture(scope="session")
def converted(shots: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Converted:
    variant = _small("T16", depth=12)
    model: Any = build_tower(variant, synthetic_state_dict(variant))
    inputs = [{"image": preprocess(shot, variant.image_size)} for shot in shots]
    images = [torch.from_numpy(i["image"]) for i in inputs]
    scales, reductions = headroom.fit_scales(model, images)
    with torch.no_grad():
        reference = [{"embedding": F.normalize(model(image), dim=-1).numpy()} for image in images]
    folder = tmp_path_factory.mktemp("converted")
    files = {(p, kept): folder / f"{p}_{kept}.tflite" for p in ("fp32", "fp16", "int8") for kept in (False, True)}
    for kept in (False, True):
        tower = rewrite(model, scales, keep_norm_weights=kept)
        export_tflite(tower, {"image": images[0]}, files["fp32", kept])
        for precision in ("fp16", "int8"):
            quantize(files["fp32", kept], files[precision, kept], precision)
    return Converted(variant, model, scales, reductions, inputs, reference, files)


@pytest.fixture(scope="session")
def tiny() -> Variant:
    """The smallest tower that has every part: T16 with one block, 64 x 64 pixels."""
    return _small("T16", depth=1)


@pytest.fixture(scope="session")
def tiny_result(tiny: Variant, tmp_path_factory: pytest.TempPathFactory) -> pipeline.Conversion:
    """`tiny` through the whole conversion, in every precision."""
    options = pipeline.VisionOptions(precisions=("fp16", "int8", "fp32"), gpu="skip")
    target = tmp_path_factory.mktemp("out") / tiny.artefact
    return pipeline.convert(tiny, load(tiny, "synthetic"), target, options, lambda line: None)


@pytest.fixture
def without_export(tiny_result: pipeline.Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions of `tiny` take the float32 file that is there instead of seconds to make it again."""
    made = tiny_result.folder / f"{tiny_result.manifest.name}_fp32.tflite"
    monkeypatch.setattr(tflite_files, "export_tflite", lambda tower, inputs, path, outputs: shutil.copy(made, path))


@pytest.fixture(scope="session")
def drawing_names() -> list[str]:
    return (DRAWINGS / "labels.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="session")
def drawings_bundle(tmp_path_factory: pytest.TempPathFactory, drawing_names: list[str]) -> Path:
    """The trained tower of this package: both sides and the labels of tests/drawings, every gate but the GPU's."""
    variant = find("drawings-T16")
    folder = tmp_path_factory.mktemp("drawings") / variant.artefact
    text = load_text(variant)
    pipeline.convert(variant, load(variant), folder, pipeline.VisionOptions(precisions=("fp16", "int8"), gpu="skip"))
    pipeline.convert_text(variant, text, folder, pipeline.GateOptions(precisions=("int8",), gpu="skip"))
    write_labels(folder, variant, text, drawing_names, ["a drawing of a {}"])
    return folder
