"""The photographs that conversions are measured on: those in scikit-image's wheel, or a folder of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pecore.errors import InputError
from pecore.image import Resize, load_image, preprocess
from pecore.image_files import find_images

if TYPE_CHECKING:
    from torch import Tensor

# Colour photographs that are in the wheel itself, so that nothing is downloaded.
BUNDLED = ("astronaut", "cat", "coffee", "rocket", "retina")


def photographs(folder: Path | None = None, at_most: int | None = None) -> Iterator[tuple[str, Image.Image]]:
    """(name, RGB image) pairs: every image file in `folder` and the folders in it, in the order of their names, or
    scikit-image's; of more than `at_most` every second, or third, and so on.

    Images are read as they are asked for. Raises InputError at once when `folder` is none or holds no image file, and
    on the way when one of them can't be read.
    """
    if folder is None:
        return _bundled()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: pass one that holds photographs")
    files = find_images([folder])
    files = files[:: math.ceil(len(files) / at_most)] if at_most else files
    return ((str(path.relative_to(folder)), load_image(path)) for path in files)


def tower_inputs(photos: Iterable[Image.Image], size: int, preprocessing: Mapping[str, Any]) -> list[Tensor]:
    """The photographs as timm's tower takes them, each `[1, 3, size, size]` float32: resized and normalised as a
    manifest's `preprocessing` says."""
    import torch

    from pecore.rewrites import PixelRange

    pixels, resize = PixelRange(mean=preprocessing["mean"], std=preprocessing["std"]), Resize.of(preprocessing)
    return [pixels.to_tower(torch.from_numpy(preprocess(photo, size, resize=resize))) for photo in photos]


def _bundled() -> Iterator[tuple[str, Image.Image]]:
    from skimage import data

    for name in BUNDLED:
        yield name, Image.fromarray(getattr(data, name)())
