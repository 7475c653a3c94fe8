"""From image files to model input: finding them, decoding them, and the transform. The only place that says how.

Meta's and open_clip's evaluation transform: RGB, *squash* to a square (no crop, aspect ratio not kept) with Pillow's
antialiased bilinear filter, /255, then mean = std = 0.5. timm's configuration names bicubic and a centre crop; the
published zero-shot figures were not measured with that. Other towers of timm's are evaluated as their configuration
says: `Resize`, from a bundle's manifest. Their mean and std are in the graph, which takes the same ranges as PE's.

Before the transform an image is brought to what a person sees: EXIF orientation applied, transparency on white, 16-bit
grey scaled to 8 bits, palette and CMYK to RGB, the first frame of an animation.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pecore.errors import InputError

MEAN = STD = 0.5  # of every channel

Layout = Literal["nchw", "nhwc"]
ValueRange = Literal["-1..1", "0..1", "0..255"]
ImageInput = Image.Image | str | os.PathLike[str] | np.ndarray


FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Resize:
    """How an image becomes the model's square.

    mode: `squash` (aspect ratio not kept) or `crop` (the shorter side to the size, then the centre). filter: `bilinear`
    or `bicubic`, Pillow's, antialiased. crop_pct: share of the resized image's side that is kept, in either mode.
    """

    mode: str = "squash"
    filter: str = "bilinear"
    crop_pct: float = 1.0

    @property
    def name(self) -> str:
        """As a manifest's `preprocessing.resize`: `squash` for what PE has and nothing else, so that an app that knows
        only that refuses the others."""
        if self.mode == "crop":
            return "crop"
        parts = [self.mode, "crop" if self.crop_pct != 1.0 else "", self.filter if self.filter != "bilinear" else ""]
        return "-".join(part for part in parts if part)

    @staticmethod
    def of(preprocessing: Mapping[str, Any]) -> Resize:
        """From a manifest's `preprocessing`.

        Raises:
            InputError: it asks for what this version does not know.
        """
        name, given = preprocessing.get("resize"), str(preprocessing.get("filter", "bilinear")).partition(",")[0]
        found = Resize("crop" if name == "crop" else "squash", given, float(preprocessing.get("crop_pct", 1.0)))
        if given not in FILTERS or found.name != name:
            raise InputError(
                f"the bundle's images are resized by {name} ({given}), which is not known: update pecore-litert"
            )
        return found

    def apply(self, image: Image.Image, size: int) -> Image.Image:
        """The square of `size` pixels, as timm's evaluation transform makes it."""
        scaled = math.floor(size / self.crop_pct)
        width, height = image.size
        if self.mode == "squash":
            target = (scaled, scaled)
        elif width <= height:
            target = (scaled, int(scaled * height / width))
        else:
            target = (int(scaled * width / height), scaled)
        image = image.resize(target, FILTERS[self.filter])
        if target == (size, size):
            return image
        left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
        return image.crop((left, top, left + size, top + size))


SQUASH = Resize()


def preprocess(
    image: ImageInput,
    size: int,
    *,
    layout: Layout = "nchw",
    value_range: ValueRange = "-1..1",
    resize: Resize = SQUASH,
) -> np.ndarray:
    """Model input for one image: contiguous float32 [1, 3, size, size], or [1, size, size, 3] for "nhwc".

    `image` is whatever `load_image` takes. `value_range` is the graph's: "-1..1" for one that takes normalised input,
    "0..1" or "0..255" for one that normalises inside. Raises InputError for an image, layout or range it can't use.
    """
    if layout not in get_args(Layout):
        raise InputError(f"unknown input layout {layout!r}: choose one of {', '.join(get_args(Layout))}")
    if value_range not in get_args(ValueRange):
        raise InputError(f"unknown input range {value_range!r}: choose one of {', '.join(get_args(ValueRange))}")
    pixels = np.asarray(resize.apply(load_image(image), size), dtype=np.float32)
    if value_range != "0..255":
        pixels = pixels / np.float32(255)
    if value_range == "-1..1":
        pixels = (pixels - np.float32(MEAN)) / np.float32(STD)
    if layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])


def load_image(image: ImageInput) -> Image.Image:
    """The image as 8-bit RGB, upright, on white: from a Pillow image (itself, where it is all that already), a file's
    path, or a uint8 RGB array [h, w, 3].

    Raises InputError, which names the offender, for a file that is missing, damaged or no image, and for any other
    type, shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(
                f"an image array must be uint8 RGB [height, width, 3], not {image.dtype} {list(image.shape)}: "
                "convert it, or pass a Pillow image or a file's path"
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _to_rgb(image, "the image")
    if not isinstance(image, str | os.PathLike):
        raise InputError(
            f"an image must be a Pillow image, a file's path or a uint8 RGB array, not {type(image).__name__}"
        )
    path = Path(image)
    if not path.exists():
        raise InputError(f"there is no image file {path}: check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name an image file in it")
    return _to_rgb(path, str(path))


def _to_rgb(source: Image.Image | Path, name: str) -> Image.Image:
    try:
        image = Image.open(source) if isinstance(source, Path) else source
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose copies an upright one as well
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = _eight_bits(image)
        if image.mode == "F":
            raise ValueError("its pixels are floating-point, and their range is not known")
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image if image.mode == "RGB" else image.convert("RGB")
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image in a format Pillow knows: try a JPEG or PNG file") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{name} can't be used ({error}): save it again as an 8-bit JPEG or PNG") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I, I;16...) as 8-bit grey; Pillow's own conversion clips at 255."""
    grey = np.asarray(image, dtype=np.int64)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError("its grey values are beyond 16 bits")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def image_suffixes() -> frozenset[str]:
    """Endings, lower-case with their dot, of the files that Pillow reads."""
    return frozenset(s for s, name in Image.registered_extensions().items() if name in Image.OPEN)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and every image under folders, in the order of their names, each once.

    Hidden files and folders are left out; a file named outright is taken whatever its ending.

    Raises:
        InputError: a path that does not exist, or a folder without any image.
    """
    suffixes = image_suffixes()
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            images = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file()]
            images = [p for p in images if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not images:
                raise InputError(f"there is no image file in {path}; name a folder with photographs (JPEG, PNG, ...)")
            found.update(dict.fromkeys(images))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"there is no {path}; name an image file or a folder of them")
    return list(found)
