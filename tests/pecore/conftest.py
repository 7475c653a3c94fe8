"""A bundle of a one-block T16 at 64 pixels: fp16 and int8 vision towers, labels, a narrow text tower."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pecore import image_formats
from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.label_embeddings import write_labels
from pecore.convert.pipeline import GateOptions, convert_text
from pecore.convert.text_tower import TextConfig, load_text, text_config
from pecore.encoder import PerceptionEncoder
from pecore.variants import Variant, find

TINY = replace(find("T16"), depth=1, image_size=64)
LABELS = ["cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda"]
SHOTS = {"cat": "chelsea", "astronaut": "astronaut", "cup_of_coffee": "coffee", "Rocket": "rocket"}


@pytest.fixture(scope="session")
def tiny_variant() -> Variant:
    return TINY


@pytest.fixture(scope="session")
def tiny_text_config() -> TextConfig:
    return replace(text_config(TINY), layers=1, width=64, heads=2)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_text_config: TextConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With labels, without a text `.tflite`. Not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    options = pipeline.VisionOptions(precisions=("fp16", "int8"), gpu="skip")
    assert pipeline.convert(TINY, load(TINY, "synthetic"), folder, options, lambda line: None).passed
    weights = load_text(TINY, "synthetic", config=tiny_text_config)
    write_labels(folder, TINY, weights, LABELS, ["a photo of a {}."], lambda line: None, config=tiny_text_config)
    return folder


@pytest.fixture(scope="session")
def text_section(tiny_text_config: TextConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text tower's `.tflite` alone."""
    folder = tmp_path_factory.mktemp("text") / "bundle"
    weights = load_text(TINY, "synthetic", config=tiny_text_config)
    options = GateOptions(("fp32",), gpu="skip")
    assert convert_text(TINY, weights, folder, options, lambda line: None, tiny_text_config).passed
    return folder


@pytest.fixture(scope="session")
def encoder(tiny_bundle: Path) -> PerceptionEncoder:
    return PerceptionEncoder(tiny_bundle, threads=1)


@pytest.fixture
def small_text(tiny_text_config: TextConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrow text tower in place of T16's, for PyTorch."""
    for module in ("text_tower", "load"):
        monkeypatch.setattr(f"pecore.convert.{module}.text_config", lambda variant: tiny_text_config)


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`pillow-heif` is not installed."""
    clear = (image_formats.read_formats, image_formats.reads_heif)
    monkeypatch.setattr(image_formats, "find_spec", lambda name: None)
    for function in clear:
        function.cache_clear()
    yield
    for function in clear:
        function.cache_clear()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder: four classes, three cuts of a photograph each. Not to be written to."""
    root = tmp_path_factory.mktemp("dataset")
    for name, shot in SHOTS.items():
        image = Image.fromarray(np.asarray(getattr(data, shot)())).resize((160, 120))
        (root / name).mkdir()
        for i, left in enumerate((0, 20, 40)):
            image.crop((left, 0, left + 120, 120)).save(root / name / f"{i}.png")
    return root
