"""The preprocessing's specification against Pillow, and the vectors that the Kotlin and JavaScript tests read."""

import hashlib
import importlib.util
import json
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data

from pecore.encoder import PerceptionEncoder, rank
from pecore.image import SQUASH, Resize, load_image, preprocess
from pecore.labels import LabelSet

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))
IMAGES = VECTORS["images"]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_vectors", ROOT / "scripts" / "write_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = script()


def pixels_of(image: dict[str, Any]) -> np.ndarray:
    return np.fromfile(FOLDER / image["rgb"], np.uint8).reshape(image["height"], image["width"], 3)


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def pillow(pixels: np.ndarray, size: int, how: Resize = SQUASH) -> np.ndarray:
    return np.asarray(how.apply(Image.fromarray(pixels), size))


@pytest.mark.parametrize("size", [1, 7, 64, 224, 448])
@pytest.mark.parametrize(
    "shape", [(512, 512), (300, 451), (512, 288), (333, 7), (1, 1), (2, 500), (64, 64), (225, 223), (223, 225)]
)
def test_the_specification_is_pillow_bit_for_bit(shape: tuple[int, int], size: int) -> None:
    photo = data.astronaut()[: shape[0], : shape[1]]
    for how in (SQUASH, *WRITER.RESIZES) if size <= 64 else (SQUASH, WRITER.RESIZES[2]):
        assert np.array_equal(WRITER.resize(photo, size, how), pillow(photo, size, how)), how


@pytest.mark.parametrize("how", [SQUASH, *WRITER.RESIZES], ids=lambda how: f"{how.name}-{how.filter}-{how.crop_pct}")
def test_the_specification_on_noise_of_any_size(how: Resize) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width, size = map(int, rng.integers(1, 120, 3))
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        assert np.array_equal(WRITER.resize(noise, size, how), pillow(noise, size, how)), (height, width, size)


@pytest.mark.parametrize("extra", [-2, -1, 0, 1, 2])
def test_which_axis_comes_first(extra: int) -> None:
    """At the height from which the columns do, one order is Pillow's and the other is not."""
    noise = np.random.default_rng(1).integers(0, 256, (32 + 2 * 20 + extra, 32 + 20, 3), np.uint8)
    found, expected = WRITER.resize(noise, 32), pillow(noise, 32)
    assert np.array_equal(found, expected)
    orders = [
        WRITER._resize_axis(WRITER._resize_axis(noise, 32, axis, 32, "bilinear"), 32, 1 - axis, 32, "bilinear")
        for axis in (0, 1)
    ]
    assert [np.array_equal(o, expected) for o in orders] == [extra > 0, extra <= 0]


def test_worked_weights() -> None:
    for axis in VECTORS["resize"]["weights"]:
        found = WRITER.weights(axis["in"], axis["out"], axis["filter"])
        assert [list(w) for w in zip(axis["first"], axis["weights"])] == [[f, w] for f, w in found]
        one = 1 << VECTORS["resize"]["precision_bits"]
        assert all(abs(sum(w) - one) <= len(w) for _, w in found)


@pytest.mark.parametrize("image", IMAGES, ids=lambda i: i["name"])
def test_images_and_tensors(image: dict[str, Any]) -> None:
    pixels = pixels_of(image)
    assert np.array_equal(np.asarray(load_image(FOLDER / image["png"])), pixels)
    for size, expected in image["resized_sha256"].items():
        assert digest(pillow(pixels, int(size))) == expected
    for tensor in image["tensors"]:
        stored = np.fromfile(FOLDER / tensor["file"], "<f4")
        made = preprocess(FOLDER / image["png"], tensor["size"], layout=tensor["layout"], value_range=tensor["range"])
        np.testing.assert_allclose(stored, made.ravel(), rtol=0, atol=VECTORS["normalise"]["tolerance"])
        assert len(stored) == 3 * tensor["size"] ** 2


def test_resizes_of_other_towers() -> None:
    """What the manifest says, read as a bundle is read, is what Pillow does."""
    hows = [Resize.of(case["preprocessing"]) for case in VECTORS["resizes"]]
    assert hows == WRITER.RESIZES
    for how, case in zip(hows, VECTORS["resizes"]):
        for image in IMAGES:
            for size, expected in case["resized_sha256"][image["name"]].items():
                assert digest(pillow(pixels_of(image), int(size), how)) == expected
    odd = {(how.target(64, 43, size)[axis] - size) % 4 for how in hows for size in (8, 64, 224) for axis in (0, 1)}
    assert odd >= {1, 3}  # halves are rounded to the even number: down, and up


def test_the_profile_of_the_one_that_has_one_is_ignored() -> None:
    """Converting it to sRGB would make other pixels."""
    (entry,) = (image for image in IMAGES if image["name"] == "profile")
    with Image.open(FOLDER / entry["png"]) as stored:
        profile = ImageCms.ImageCmsProfile(BytesIO(stored.info["icc_profile"]))
        assert ImageCms.getProfileDescription(profile).strip() == "Display P3"
        converted = ImageCms.profileToProfile(stored, profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(converted, int) - pixels_of(entry)).max() > 40
    assert np.array_equal(np.asarray(load_image(FOLDER / entry["png"])), pixels_of(entry))


def test_generated_images() -> None:
    for case in VECTORS["generated"]["cases"]:
        pixels = WRITER.generated(case["width"], case["height"])
        assert digest(pillow(pixels, case["size"])) == case["resized_sha256"]
    x, y, channel = 5, 3, 2  # by the formula as it is written
    assert WRITER.generated(8, 4)[y, x, channel] == (37 * x + 61 * y + 97 * channel + x * y // 7) % 256


def test_embeddings_are_the_tower_s(tiny_bundle: Path) -> None:
    scores = VECTORS["scores"]
    stored = np.fromfile(FOLDER / scores["embeddings"], "<f4").reshape(-1, scores["dim"])
    made = PerceptionEncoder(tiny_bundle, threads=1).embed_image([FOLDER / i["png"] for i in IMAGES])
    assert (stored * made).sum(1).min() > 0.9999  # weights in fp16
    assert (stored @ made.T)[~np.eye(len(made), dtype=bool)].max() < 0.999


def test_scores() -> None:
    scores = VECTORS["scores"]
    embeddings = np.fromfile(FOLDER / scores["embeddings"], "<f4").reshape(-1, scores["dim"])
    n, dim = np.fromfile(FOLDER / scores["text_embeddings"], "<i4", 2)
    rows = np.fromfile(FOLDER / scores["text_embeddings"], "<f4", offset=8).reshape(n, dim)
    names = tuple((FOLDER / scores["labels"]).read_text(encoding="utf-8").splitlines())
    tolerance = scores["tolerance"]
    ties = 0
    for case, image, embedding in zip(scores["cases"], IMAGES, embeddings, strict=True):
        assert case["image"] == image["name"]
        best = rank(embedding, LabelSet(names, rows, scores["logit_scale"], {}, "T16"), scores["top_k"])
        for made, stored in zip(best, case["predictions"], strict=True):
            assert (made.label, made.index) == (stored["label"], stored["index"])
            assert made.cosine == pytest.approx(stored["cosine"], abs=tolerance["cosine"])
            assert made.probability == pytest.approx(stored["probability"], abs=tolerance["probability"])
        ties += len({p["cosine"] for p in case["predictions"]}) < scores["top_k"]
    assert ties > 0


def test_the_script_writes_what_is_committed(tmp_path: Path) -> None:
    WRITER.write(tmp_path)
    written = {p.name for p in tmp_path.iterdir()}
    assert written == {p.name for p in FOLDER.iterdir() if p.is_file()}
    computed = {"embeddings.f32": "<f4", "text_embeddings.bin": "<f4"}  # the latter's header: two small integers
    for name in written - {*computed, "vectors.json"} - {i["png"] for i in IMAGES}:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    again = json.loads((tmp_path / "vectors.json").read_text(encoding="utf-8"))
    assert {k: v for k, v in again.items() if k != "scores"} == {k: v for k, v in VECTORS.items() if k != "scores"}
    # A forward pass and a norm in float32 are the machine's own in their last bits.
    for name, kind in computed.items():
        made, stored = (np.fromfile(folder / name, kind) for folder in (tmp_path, FOLDER))
        np.testing.assert_allclose(made, stored, rtol=0, atol=1e-5)


def test_they_are_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*")) < 1_000_000
    assert all(max(i["width"], i["height"]) <= 64 for i in IMAGES)
