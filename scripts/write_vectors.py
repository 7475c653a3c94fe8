"""Write `tests/vectors/`: what every implementation of the preprocessing and the scoring has to reproduce.

    python scripts/write_vectors.py [FOLDER]

The Android and browser code has no Pillow, so the resize is written out here as an algorithm (`weights`, `resize`; in
prose in `docs/preprocessing.md`), and `tests/pecore/test_vectors.py` holds it against Pillow bit for bit.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pecore.convert.checkpoint import load
from pecore.convert.towers import build_tower
from pecore.encoder import rank
from pecore.image import MEAN, SQUASH, STD, Resize, load_image, preprocess
from pecore.labels import LabelSet
from pecore.variants import Variant, find

FOLDER = Path(__file__).parents[1] / "tests" / "vectors"
PRECISION_BITS = 32 - 8 - 2  # of the fixed-point weights
COEFFICIENTS = [(5, 3), (3, 5), (64, 7), (4, 4), (2, 1), (1, 3)]
RESIZES = [  # such as timm's towers have
    *(Resize("crop", "bicubic"), Resize("squash", "bicubic")),
    *(Resize("crop", "bicubic", 0.9), Resize("crop", "bicubic", 0.95), Resize("squash", "bicubic", 0.95)),
    *(Resize("crop", "bilinear", 0.875), Resize("squash", "bilinear", 0.9)),
]
GENERATED = [  # width, height, size; the order of the passes changes between the last two
    *((4032, 3024, 224), (1000, 3, 224), (3, 1000, 224), (640, 480, 336), (225, 223, 224), (448, 448, 224)),
    *((1080, 1920, 224), (223, 225, 224), (324, 424, 224), (323, 424, 224)),
]
FORMULA = "value(x, y, channel) = (37 * x + 61 * y + 97 * channel + floor(x * y / 7)) mod 256"
FORMS = [(64, "nchw", "-1..1"), (8, "nhwc", "-1..1"), (8, "nchw", "0..1"), (8, "nhwc", "0..255")]
LABELS = ("cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda", "été", "cat again")
LOGIT_SCALE, TOP_K = 100.0, 5
TOWER = replace(find("T16"), depth=1, image_size=64)


def triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def cubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


KERNELS: dict[str, tuple[float, Callable[[float], float]]] = {"bilinear": (1.0, triangle), "bicubic": (2.0, cubic)}
"""Filter -> its radius and what it weighs at a distance, in pixels of the smaller of the two sides."""


def weights(in_size: int, out_size: int, kernel: str = "bilinear") -> list[tuple[int, list[int]]]:
    """For each output pixel: the first input pixel it reads, and the fixed-point weight of that and the following."""
    radius, weigh = KERNELS[kernel]
    scale = in_size / out_size
    support = radius * max(scale, 1.0)  # in input pixels
    steepness = 1.0 / max(scale, 1.0)
    out = []
    for x in range(out_size):
        centre = (x + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)  # int() truncates
        last = min(int(centre + support + 0.5), in_size)
        shares = [weigh((i - centre + 0.5) * steepness) for i in range(first, last)]
        total = 0.0
        for share in shares:  # in this order: it decides the last bit
            total += share
        parts = [share / total * (1 << PRECISION_BITS) for share in shares]
        out.append((first, [int(part - 0.5 if part < 0 else part + 0.5) for part in parts]))
    return out


def resize(pixels: np.ndarray, size: int, how: Resize = SQUASH) -> np.ndarray:
    """uint8 `[h, w, 3]` -> `[size, size, 3]`: one axis, rounded to uint8, then the other; of each the middle."""
    height, width, _ = pixels.shape
    across, down = how.target(width, height, size)
    vertical_first = height > down and height - down > 2 * (width - across)
    for axis in (0, 1) if vertical_first else (1, 0):
        pixels = _resize_axis(pixels, (down, across)[axis], axis, size, how.filter)
    return pixels


def _resize_axis(pixels: np.ndarray, to: int, axis: int, keep: int, kernel: str) -> np.ndarray:
    """`axis` resized to `to` pixels, of which the middle ones are kept."""
    lines = np.moveaxis(pixels, axis, 0).astype(np.int64)
    start = round((to - keep) / 2)  # of two whole numbers that are equally near the even one
    out = np.empty((keep, *lines.shape[1:]), np.uint8)
    for i, (first, taps) in enumerate(weights(len(lines), to, kernel)[start : start + keep]):
        total = 1 << (PRECISION_BITS - 1)
        for k, tap in enumerate(taps):
            total = total + tap * lines[first + k]
        out[i] = np.clip(total >> PRECISION_BITS, 0, 255)
    return np.moveaxis(out, 0, axis)


def generated(width: int, height: int) -> np.ndarray:
    """The image that `FORMULA` describes: large ones need no file."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((37 * x + 61 * y + 97 * c + x * y // 7) % 256).astype(np.uint8)


def display_p3() -> bytes:
    """A minimal ICC profile, version 4: Display P3's primaries, adapted to D50, with sRGB's curve.

    A picture that has it looks different, and has other pixels once it is converted to sRGB: in step 1 it is not.
    """

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))

    def text(words: str) -> bytes:
        header = struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(words), 28)
        return b"mluc" + bytes(4) + header + words.encode("utf-16-be")

    curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": text("Display P3"),
        b"cprt": text("CC0"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        **dict.fromkeys(
            (b"rTRC", b"gTRC", b"bTRC"),
            b"para" + bytes(4) + struct.pack(">HH5i", 3, 0, *(round(value * 65536) for value in curve)),
        ),
    }
    at, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        index += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"", 0x04000000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


def images() -> dict[str, Image.Image]:
    """Small pictures: cuts of scikit-image's photographs (square, wide, tall, tiny, transparent), one pixel, and all
    hues in Display P3."""
    from skimage import data

    shots = {n: Image.fromarray(getattr(data, n)()) for n in ("astronaut", "chelsea", "coffee", "rocket")}
    across = Image.linear_gradient("L").resize((40, 40))
    transparent = shots["coffee"].resize((32, 24))
    transparent.putalpha(Image.linear_gradient("L").resize((32, 24)))
    return {
        "square": shots["astronaut"].crop((160, 40, 288, 168)).resize((64, 64)),
        "wide": shots["chelsea"].resize((64, 43)),
        "tall": shots["coffee"].crop((200, 0, 388, 400)).resize((30, 64)),
        "tiny": shots["rocket"].resize((7, 5)),
        "transparent": transparent,
        "pixel": Image.new("RGB", (1, 1), (200, 100, 50)),
        "profile": Image.merge("HSV", [across, across.rotate(90), Image.new("L", (40, 40), 220)]).convert("RGB"),
    }


def write(folder: Path) -> None:
    """Write every vector to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = images()
    entries = []
    for name, picture in pictures.items():
        options = {"icc_profile": display_p3()} if name == "profile" else {}
        picture.save(folder / f"{name}.png", **options)
        rgb = np.asarray(load_image(folder / f"{name}.png"))
        (folder / f"{name}.rgb").write_bytes(rgb.tobytes())
        entry: dict[str, Any] = {
            "name": name,
            "width": picture.width,
            "height": picture.height,
            "png": f"{name}.png",
            "rgb": f"{name}.rgb",
            "resized_sha256": {str(size): _digest(resize(rgb, size)) for size in (8, 64, 224)},
            "tensors": [],
        }
        for size, layout, value_range in FORMS if name == "wide" else FORMS[:1]:
            file = f"{name}_{size}_{layout}_{value_range.replace('..', '_')}.f32"
            tensor = preprocess(picture, size, layout=layout, value_range=value_range)  # type: ignore[arg-type]
            (folder / file).write_bytes(tensor.astype("<f4").tobytes())
            entry["tensors"].append({"file": file, "size": size, "layout": layout, "range": value_range})
        entries.append(entry)
    content = {
        "format": 1,
        "written_by": "scripts/write_vectors.py",
        "specification": "docs/preprocessing.md",
        "files": {
            ".rgb": "uint8, rows of pixels from the top, red green blue",
            ".f32": "little-endian float32",
            "text_embeddings.bin": "little-endian int32 n, int32 dim, n * dim float32",
        },
        "resize": {
            "name": "Pillow's antialiased filters for 8-bit images; unless said otherwise bilinear, to the square",
            "precision_bits": PRECISION_BITS,
            "order": "to W x H: columns first if h > H and h - H > 2 * (w - W), else rows first; uint8 in between",
            "weights": [_worked(i, o, kernel) for kernel in KERNELS for i, o in COEFFICIENTS],
        },
        "normalise": {"mean": MEAN, "std": STD, "tolerance": 1e-6},
        "images": entries,
        "generated": {
            "formula": FORMULA,
            "cases": [
                {"width": w, "height": h, "size": s, "resized_sha256": _digest(resize(generated(w, h), s))}
                for w, h, s in GENERATED
            ],
        },
        "resizes": [_resized(how, folder, entries) for how in RESIZES],
        "scores": _scores(folder, pictures),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "vectors.json").write_text(text + "\n", encoding="utf-8")


def _resized(how: Resize, folder: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What a manifest says of a resize that is no plain squash, and the pictures' digests, to 8, 64 and 224 pixels."""
    digests = {}
    for entry in entries:
        rgb = np.fromfile(folder / entry["rgb"], np.uint8).reshape(entry["height"], entry["width"], 3)
        digests[entry["name"]] = {str(size): _digest(resize(rgb, size, how)) for size in (8, 64, 224)}
    about = {"resize": how.name, "filter": f"{how.filter}, antialiased", "crop_pct": how.crop_pct}
    return {"preprocessing": about, "resized_sha256": digests}


def _worked(in_size: int, out_size: int, kernel: str) -> dict[str, Any]:
    found = weights(in_size, out_size, kernel)
    return {
        "in": in_size,
        "out": out_size,
        "filter": kernel,
        "first": [f for f, _ in found],
        "weights": [w for _, w in found],
    }


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def embed(variant: Variant, picture: Image.Image) -> np.ndarray:
    """Embedding `[dim]` of timm's tower with synthetic weights (seed 0)."""
    model = build_tower(variant, load(variant, "synthetic").state_dict)
    with torch.no_grad():
        return F.normalize(model(torch.from_numpy(preprocess(picture, variant.image_size))), dim=-1)[0].numpy()


def _scores(folder: Path, pictures: dict[str, Image.Image]) -> dict[str, Any]:
    """Embeddings of the pictures, seeded directions in place of labels' ones (two are equal), and what follows."""
    embeddings = np.stack([embed(TOWER, picture) for picture in pictures.values()])
    rows = np.random.default_rng(0).standard_normal((len(LABELS), TOWER.embedding_dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[-1] = rows[0]
    (folder / "embeddings.f32").write_bytes(embeddings.astype("<f4").tobytes())
    header = np.array(rows.shape, "<i4").tobytes()
    (folder / "text_embeddings.bin").write_bytes(header + rows.astype("<f4").tobytes())
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    labels = LabelSet(LABELS, rows, LOGIT_SCALE, {}, TOWER.size)
    return {
        "embeddings": "embeddings.f32",
        "dim": TOWER.embedding_dim,
        "embeddings_are": "of the images in their order: T16 with one block, 64 x 64 pixels, synthetic weights, seed 0",
        "text_embeddings": "text_embeddings.bin",
        "labels": "labels.txt",
        "logit_scale": LOGIT_SCALE,
        "rule": "probability = softmax over all labels of logit_scale * cosine; of equal cosines the first label first",
        "tolerance": {"cosine": 1e-6, "probability": 1e-4},
        "top_k": TOP_K,
        "cases": [
            {"image": name, "predictions": [asdict(p) for p in rank(e, labels, TOP_K)]}
            for name, e in zip(pictures, embeddings)
        ],
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
