"""Frames of a clip: which ones, and from where."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pecore.errors import InputError
from pecore.image import ImageInput, find_images, load_image

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
    if not path.exists():
        raise InputError(f"there is no {path}; name an animated GIF, WebP or PNG, or a folder of frames")
    return _animation(path, frames)


def evenly(total: int, frames: int | None) -> list[int]:
    """Places of `frames` of `total`, evenly spaced from the first to the last; all where there are no more."""
    if frames is None or frames >= total:
        return list(range(total))
    return [round(place) for place in np.linspace(0, total - 1, frames)] if frames > 1 else [(total - 1) // 2]


def _animation(path: Path, frames: int | None) -> list[Image.Image]:
    try:
        with Image.open(path) as clip:
            found = []
            for place in evenly(getattr(clip, "n_frames", 1), frames):
                clip.seek(place)
                found.append(load_image(clip.copy()))
            return found
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an animation that Pillow reads; save its frames to a folder, and name that"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); save its frames to a folder, and name that") from error


def mean_embedding(rows: np.ndarray) -> np.ndarray:
    """Embedding `[dim]`, L2-normalised, of a clip from those of its frames `[n, dim]`: their mean, as PE has it."""
    mean = rows.mean(axis=0)
    return mean / np.linalg.norm(mean)
