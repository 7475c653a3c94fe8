"""Frames of a clip: which ones, and from where."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pecore.errors import InputError
from pecore.image import ImageInput, decode, load_image, open_file
from pecore.image_files import find_images
from pecore.image_formats import read_formats

VideoInput = str | os.PathLike[str] | Sequence[ImageInput]

FRAMES = 8
"""Frames of a clip that PE's zero-shot video figures use (https://arxiv.org/abs/2504.13181)."""


def video_frames(video: VideoInput, frames: int | None = FRAMES) -> list[Image.Image]:
    """Evenly spaced frames of a clip, the first and the last among them, as RGB images.

    Args:
        video: a list of images, a file that holds an animation (GIF, APNG, WebP), or a folder of frames, which follow
            one another in the order of their names.
        frames: how many at most; None for all of them.

    Raises:
        InputError: what is neither, has no frames, or holds one that can't be read; `frames` below 1.
    """
    if frames is not None and frames < 1:
        raise InputError(f"{frames} frames of a clip are none; ask for 1 or more")
    if isinstance(video, list | tuple):
        if not video:
            raise InputError("the clip is an empty list; give one frame or more")
        return [load_image(video[i]) for i in evenly(len(video), frames)]
    if not isinstance(video, str | os.PathLike):
        raise InputError(f"a clip must be a list of images, a file's path or a folder's, not {type(video).__name__}")
    path = Path(video)
    if path.is_dir():
        files = find_images([path])
        return [load_image(files[i]) for i in evenly(len(files), frames)]
    return _animation(path, frames)


def evenly(total: int, frames: int | None) -> list[int]:
    """Places of `frames` of `total`, evenly spaced from the first to the last; all where there are no more."""
    if frames is None or frames >= total:
        return list(range(total))
    return [round(place) for place in np.linspace(0, total - 1, frames)] if frames > 1 else [(total - 1) // 2]


def _animation(path: Path, frames: int | None) -> list[Image.Image]:
    with open_file(path) as file:
        try:
            clip = Image.open(file, formats=read_formats())
        except Exception:  # `decode` makes more of a still picture, or says what it is
            return [decode(file, str(path))]
        try:
            total = getattr(clip, "n_frames", 1)
            if total == 1:
                return [decode(file, str(path))]
            return [_frame(clip, place) for place in evenly(total, frames)]
        except Exception as error:  # Pillow's plugins raise nearly everything
            said = str(error) if isinstance(error, InputError) else f"{path} is damaged ({error})"
            raise InputError(f"{said}; save its frames to a folder, and name that") from error


def _frame(clip: Image.Image, place: int) -> Image.Image:
    if place:
        clip.seek(place)
    return load_image(clip.copy())


def mean_embedding(rows: np.ndarray) -> np.ndarray:
    """Embedding `[dim]`, L2-normalised, of a clip from those of its frames `[n, dim]`: their mean, as PE has it."""
    mean = rows.mean(axis=0)
    return mean / np.linalg.norm(mean)
