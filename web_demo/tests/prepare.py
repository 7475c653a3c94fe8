"""What the browser tests need, into a folder: bundles (tiny, B16, the trained one), pictures, what Python says of them.

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

DRAWINGS = Path(__file__).parents[2] / "tests" / "drawings" / "images"
VECTORS = Path(__file__).parents[2] / "tests" / "vectors"
LABELS = ["cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda", "church", "été", "<b>bold</b>"]
BUNDLES = {"tiny": dataclasses.replace(find("T16"), depth=2, image_size=64), "b16": find("B16")}
FEATURES = "features"  # a folder: feature maps of two pictures at once, judged by thresholds of their own
SHOTS = ("chelsea", "coffee", "astronaut", "rocket")
TURNED = 6  # EXIF orientation: stored lying on its side


def make_bundle(variant: Variant, folder: Path) -> None:
    options = pipeline.VisionOptions(precisions=("fp16", "int8"), gpu="skip")
    result = pipeline.convert(variant, load(variant, "synthetic"), folder, options)
    assert result.passed, result.checks
    config = dataclasses.replace(text_config(variant), layers=1, width=64, heads=2)  # embeddings of a kind, in a second
    weights = load_text(variant, "synthetic", config=config)
    write_labels(folder, variant, weights, LABELS, ["a photo of a {}."], config=config)
    if variant is BUNDLES["tiny"]:  # float32, so that the page's embeddings can be held against Python's closely
        result = pipeline.convert_text(variant, weights, folder, pipeline.GateOptions(("fp32",)), config=config)
        assert result.passed, result.checks


def make_trained(folder: Path) -> None:
    """The trained tower with its text side, 200 drawings that it has not seen, 100 cuts of photographs, and words for
    every tenth drawing (`browser/trained.test.js`)."""
    bundle, pictures = folder / "bundle", folder / "pictures"
    if not (bundle / "manifest.json").exists():
        variant = find("drawings-T16")
        made = pipeline.VisionOptions(precisions=("fp16",), gpu="skip")
        assert pipeline.convert(variant, load(variant), bundle, made).passed
        assert pipeline.convert_text(variant, load_text(variant), bundle, pipeline.GateOptions(("fp32",))).passed
    if not pictures.exists():
        shutil.copytree(DRAWINGS, pictures / "drawings")
        make_cuts(pictures / "photographs", 100)
    drawings = sorted(pictures.glob("drawings/*/*.png"))[::10]
    queries = [
        {"words": f"a drawing of a {path.parent.name}", "path": str(path.relative_to(folder))} for path in drawings
    ]
    (folder / "queries.json").write_text(json.dumps(queries, indent=1))


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
    shutil.copy(VECTORS / "profile.png", folder)  # in Display P3
    return sorted(folder.iterdir())


def make_photographs(folder: Path) -> None:
    """Forty cuts of photographs, some in a folder of their own, and two files that are none. As PNG: browsers decode
    JPEG in their own way."""
    if folder.exists():
        return
    make_cuts(folder, 40)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("not a picture, and not called one", encoding="utf-8")


def make_cuts(folder: Path, count: int) -> None:
    for number in range(count):
        shot = Image.fromarray(getattr(data, SHOTS[number % len(SHOTS)])()).convert("RGB")
        left, top = 5 * number, 3 * number
        place = folder / ("holiday" if number % 3 else "home")
        place.mkdir(parents=True, exist_ok=True)
        shot.crop((left, top, left + 120 + number, top + 160)).save(
            place / f"{SHOTS[number % len(SHOTS)]} {number}.png"
        )


def main(out: Path) -> None:
    make_photographs(out / "photos")
    make_trained(out / "trained")
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
    texts = json.loads((VECTORS / "text" / "texts.json").read_text(encoding="utf-8"))["embedded"]
    rows = PerceptionEncoder(out / "tiny").embed_text(texts)
    (out / "texts.json").write_text(json.dumps([{"text": t, "row": r.tolist()} for t, r in zip(texts, rows)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
