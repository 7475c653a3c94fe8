"""From an image file to model input: decoding, and the transform. The only place that says how.

Meta's and open_clip's evaluation transform: RGB, *squash* to a square (no crop, aspect ratio not kept) with Pillow's
antialiased bilinear filter, /255, then mean = std = 0.5. timm's configuration names bicubic and a centre crop; the
published zero-shot figures were not measured with that. Other towers of timm's are evaluated as their configuration
says: `Resize`, from a bundle's manifest. Their mean and std are in the graph, which takes the same ranges as PE's.

Before the transform an image is brought to what a person sees: EXIF orientation applied, transparency on white, 16-bit
grey scaled to 8 bits, palette and CMYK to RGB, the first frame of an animation. A colour profile is ignored, as Meta's
and open_clip's transforms ignore it (docs/preprocessing.md).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image

from pecore.errors import InputError
from pecore.image_formats import CONVERT_HEIC, HEIF, NAMES, READ, read_formats, seems_to_be
from pecore.image_metadata import upright, without_metadata

MEAN = STD = 0.5  # of every channel

SNIFFED = 64  # bytes that tell what a file is
REMEDIES = {
    HEIF: CONVERT_HEIC,
    "a Git LFS pointer": "fetch the file itself with `git lfs pull`",
    "a web page": "download the picture itself",
    "a video": "save its frames to a folder",
}

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
        """As a manifest's `preprocessing.resize`: `squash` for what PE has and nothing else, so that an older app,
        which knows only that, refuses the others."""
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

    def target(self, width: int, height: int, size: int) -> tuple[int, int]:
        """Width and height to which an image is resized before the square of `size` pixels is cut from its middle."""
        scaled = math.floor(size / self.crop_pct)
        if self.mode == "squash":
            return scaled, scaled
        if width <= height:
            return scaled, int(scaled * height / width)
        return int(scaled * width / height), scaled

    def apply(self, image: Image.Image, size: int) -> Image.Image:
        """The square of `size` pixels, as timm's evaluation transform makes it."""
        target = self.target(*image.size, size)
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
        name = str(getattr(image, "filename", "")) or "the image"
        try:
            return _to_rgb(image)
        except Exception as error:
            raise _unusable(name, error) from error
    if not isinstance(image, str | os.PathLike):
        raise InputError(
            f"an image must be a Pillow image, a file's path or a uint8 RGB array, not {type(image).__name__}"
        )
    with open_file(Path(image)) as file:
        return decode(file, str(image))


def open_file(path: Path) -> BinaryIO:
    """An image's file, opened. Raises InputError."""
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"there is no image file {path}: check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: name an image file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]} can't be opened ({reason}): check its name and its permissions") from error


def decode(file: BinaryIO, name: str) -> Image.Image:
    """The image in an open binary file, as `load_image` has it. Whatever goes wrong is that file's InputError, with its
    `name`."""
    try:
        return _to_rgb(Image.open(file, formats=read_formats()))
    except (Image.DecompressionBombError, MemoryError) as error:
        raise _too_large(name, error) from error
    except Exception as error:  # Pillow's plugins raise nearly everything
        try:
            file.seek(0)
            start = file.read(SNIFFED)
            found = _without_metadata(start, file)
        except (Image.DecompressionBombError, MemoryError) as problem:
            raise _too_large(name, problem) from problem
        except (OSError, ValueError) as problem:
            raise _unusable(name, problem) from problem
        if found is None:
            raise _refused(name, start, error) from error
        return found


def _without_metadata(start: bytes, file: BinaryIO) -> Image.Image | None:
    """The image in a file that begins with `start` and could not be read as it is; None where it can't be read without
    its metadata either, which are not what decides whether a picture can be seen."""
    if seems_to_be(start) not in (*READ, HEIF):
        return None
    bare = without_metadata(start + file.read())
    if bare is None:
        return None
    data, orientation = bare
    try:
        return _to_rgb(Image.open(BytesIO(data), formats=read_formats()), orientation)
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception:  # the first error is the one to report
        return None


def _to_rgb(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """8-bit RGB, upright, on white. `orientation` as `upright` takes it."""
    image.load()
    if 0 in image.size:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    image = upright(image, orientation)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point, and their range is not known")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _refused(name: str, start: bytes, error: Exception) -> InputError:
    """What to say of a file that can't be read, by what it seems to be."""
    what = seems_to_be(start)
    if not start:
        return InputError(f"{name} is not an image, it is empty: copy it again")
    if not isinstance(error, Image.UnidentifiedImageError) or (what in READ and what not in read_formats()):
        return _unusable(name, error)
    if what in READ or (what == HEIF and "HEIF" in read_formats()):
        kind = "HEIC" if what == HEIF else what
        return InputError(f"{name} can't be used, it is a damaged {kind} file: get it again, or save it as a new one")
    if what in REMEDIES:
        return InputError(f"{name} is not an image that is read here but {what}: {REMEDIES[what]}")
    seems = f", but {what}" if what else ""
    return InputError(f"{name} is not an image in a format that is read ({NAMES}){seems}: save it as JPEG or PNG")


def _unusable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{name} can't be used ({reason}): save it again as an 8-bit JPEG or PNG")


def _too_large(name: str, error: Exception) -> InputError:
    limit = f"{2 * Image.MAX_IMAGE_PIXELS:,} at most are read" if Image.MAX_IMAGE_PIXELS else "or free some memory"
    pixels = re.search(r"\d+", str(error))  # of Pillow's message; a MemoryError has none
    found = f"has {int(pixels[0]):,} pixels" if pixels else "has more pixels than memory holds"
    return InputError(f"{name} {found}: make it smaller, {limit}")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I, I;16...) as 8-bit grey; Pillow's own conversion clips at 255."""
    grey = np.asarray(image, dtype=np.int64)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError("its grey values are beyond 16 bits")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))
