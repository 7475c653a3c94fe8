"""What the browser tests need, into a folder: tiny bundles, one of B16, pictures, and what Python says of them.

Example:  python web_demo/tests/prepare.py build/web
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.label_embeddings import write_labels
from pecore.convert.text_tower import load_text, text_config
from pecore.encoder import PerceptionEncoder
from pecore.variants import Variant, find

LABELS = ["cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda", "church", "été", "<b>bold</b>"]
BUNDLES = {"tiny": dataclasses.replace(find("T16"), depth=2, image_size=64), "b16": find("B16")}
FEATURES = "features"  # a folder: feature maps of two pictures at once, judged by thresholds of their own
TURNED = 6  # EXIF orientation: stored lying on its side


def make_bundle(variant: Variant, folder: Path) -> None:
    options = pipeline.VisionOptions(precisions=("fp16", "int8"), gpu="skip")
    result = pipeline.convert(variant, load(variant, "synthetic"), folder, options)
    assert result.passed, result.checks
    config = dataclasses.replace(text_config(variant), layers=1, width=64, heads=2)  # embeddings of a kind, in a second
    weights = load_text(variant, "synthetic", config=config)
    write_labels(folder, variant, weights, LABELS, ["a photo of a {}."], config=config)


def make_features(folder: Path) -> None:
    options = pipeline.VisionOptions(precisions=("fp32",), output="features", batch=2, gpu="skip")
    variant = BUNDLES["tiny"]
    result = pipeline.convert(variant, load(variant, "synthetic"), folder, options)
    assert result.passed, result.checks


def make_pictures(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("chelsea", "coffee", "astronaut"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    astronaut = data.astronaut()
    alpha = np.linspace(0, 255, astronaut.shape[0], dtype=np.uint8)[:, None] * np.ones(astronaut.shape[1], np.uint8)
    Image.fromarray(np.dstack([astronaut, alpha])).save(folder / "transparent.png")
    exif = Image.Exif()
    exif[274] = TURNED
    Image.fromarray(data.rocket()).rotate(90, expand=True).save(folder / "turned.jpg", quality=95, exif=exif)
    shutil.copy(Path(__file__).parents[2] / "tests" / "vectors" / "profile.png", folder)  # in Display P3
    return sorted(folder.iterdir())


def main(out: Path) -> None:
    pictures = make_pictures(out / "pictures")
    if not (out / FEATURES / "manifest.json").exists():
        make_features(out / FEATURES)
    for name, variant in BUNDLES.items():
        folder = out / name
        if not (folder / "manifest.json").exists():
            make_bundle(variant, folder)
        expected = {}
        for precision in ("fp16", "int8"):
            encoder = PerceptionEncoder(folder, weights=precision)
            expected[precision] = {p.name: [dataclasses.asdict(b) for b in encoder.classify(p, 5)] for p in pictures}
        (out / f"{name}.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
