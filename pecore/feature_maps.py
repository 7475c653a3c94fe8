"""Feature maps for the eye: their three strongest directions as red, green and blue."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pecore.pictures import caption

SIDE = 448  # pixels: the longer side of a picture on the sheet
GAP = 12
ENDS = (1, 99)
"""Percentiles that become black and full colour: a massive activation in one patch would make all others grey."""


def colours(maps: np.ndarray) -> np.ndarray:
    """Feature maps `[n, C, h, w]` as pictures, `[n, h, w, 3]` uint8.

    Principal components of all patches of all images together, so that a colour means the same in each; channels are
    standardised first, or the few with massive activations would be all that is seen.
    """
    count, channels, height, width = maps.shape
    patches = maps.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    deviation = patches.std(0)
    patches = (patches - patches.mean(0)) / np.where(deviation > 0, deviation, 1)
    _, _, directions = np.linalg.svd(patches, full_matrices=False)
    # A direction's sign is LAPACK's choice: the largest of its elements is made positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1, keepdims=True), 1)
    components = patches @ (directions * np.sign(largest))[:3].T
    low, high = np.percentile(components, ENDS, axis=0)
    shares = np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)
    return (shares * 255).round().astype(np.uint8).reshape(count, height, width, 3)


def sheet(images: Sequence[Image.Image], maps: np.ndarray, names: Sequence[str], note: str = "") -> Image.Image:
    """Each image beside its map's colours, stretched to its shape, a square of one colour a patch.

    Args:
        images: RGB.
        maps: `[n, C, h, w]`.
        names: captions.
        note: a line under all of them.
    """
    rows = []
    for image, colour, name in zip(images, colours(maps), names, strict=True):
        shown = image.copy()
        shown.thumbnail((SIDE, SIDE))
        painted = Image.fromarray(colour).resize(shown.size, Image.Resampling.NEAREST)
        row = Image.new("RGB", (2 * SIDE + 3 * GAP, shown.height + 2 * GAP), "white")
        row.paste(shown, (GAP, GAP))
        row.paste(painted, (2 * GAP + shown.width, GAP))
        rows += [row, caption(name, row.width)]
    rows += [caption(note, rows[0].width)] if note else []
    out = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        out.paste(row, (0, top))
        top += row.height
    return out
