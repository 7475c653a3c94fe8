"""Pictures with an alpha channel become training images: moved, on some ground, in other colours, as line drawings."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

GREY = torch.tensor([0.299, 0.587, 0.114])
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def plain(rgba: Tensor, size: int) -> Tensor:
    """`[n, 4, h, w]` uint8 on white, as `[n, 3, size, size]` in [-1, 1]: what is not for training."""
    colour, alpha = rgba[:, :3].float() / 255, rgba[:, 3:].float() / 255
    image = colour * alpha + (1 - alpha)
    image = functional.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return image * 2 - 1


def augmented(rgba: Tensor, size: int, strength: float, random: Generator) -> Tensor:
    """The same shapes, drawn anew for each picture; `strength` from 0 (moved alone) to 1."""
    n = len(rgba)
    colour, alpha = rgba[:, :3].float() / 255, rgba[:, 3:].float() / 255
    moved = functional.grid_sample(
        torch.cat([colour * alpha, alpha], 1), _places(n, size, 0.3 + 0.7 * strength, random), align_corners=False
    )
    moved = torch.where(_chosen(n, 0.3 * strength, random), moved.flip(3), moved)
    premultiplied, alpha = moved[:, :3], moved[:, 3:]
    premultiplied = _recoloured(premultiplied, alpha, 0.5 * strength, random)
    image = premultiplied + (1 - alpha) * _grounds(n, 0.5 * strength, random)
    image = _outlined(image, alpha, strength, random)
    blurred = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    image = torch.where(_chosen(n, 0.2 * strength, random), blurred, image)
    return _erased(image, 0.2 * strength, random).clamp(0, 1) * 2 - 1


def _uniform(n: int, low: float, high: float, random: Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=random)


def _chosen(n: int, share: float, random: Generator) -> Tensor:
    """True for about this share of the pictures, `[n, 1, 1, 1]`."""
    return (torch.rand(n, generator=random) < share)[:, None, None, None]


def _places(n: int, size: int, strength: float, random: Generator) -> Tensor:
    """Sampling grids: turned by up to 15 degrees, sheared, stretched, 0.75 to 1.3 times as large, shifted."""

    def spread(most: float) -> Tensor:
        return _uniform(n, -most * strength, most * strength, random)

    angle, zoom, stretch, shear = spread(math.pi / 12), torch.exp(spread(0.27)), torch.exp(spread(0.15)), spread(0.15)
    cos, sin = torch.cos(angle), torch.sin(angle)
    across = torch.stack([cos * zoom * stretch, (shear * cos - sin) * zoom, spread(0.12)], -1)
    down = torch.stack([sin * zoom, (shear * sin + cos) * zoom / stretch, spread(0.12)], -1)
    return functional.affine_grid(torch.stack([across, down], 1), [n, 4, size, size], align_corners=False)


def _recoloured(premultiplied: Tensor, alpha: Tensor, share: float, random: Generator) -> Tensor:
    """Hue, saturation, contrast and brightness by one matrix a picture."""
    n = len(premultiplied)
    hue = _uniform(n, -0.5, 0.5, random)
    saturation = _uniform(n, 0.3, 1.6, random) * (torch.rand(n, generator=random) > 0.15)
    gain = _uniform(n, 0.6, 1.3, random)
    lift = _uniform(n, -0.15, 0.2, random)
    axis = torch.full((3,), 1 / math.sqrt(3))  # grey stays grey when hues turn about it
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = torch.cos(hue)[:, None, None], torch.sin(hue)[:, None, None]
    turn = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)
    grey = GREY.expand(3, 3)
    saturate = grey + saturation[:, None, None] * (torch.eye(3) - grey)
    matrix = gain[:, None, None] * (saturate @ turn)
    changed = torch.einsum("nij,njhw->nihw", matrix, premultiplied) + lift[:, None, None, None] * alpha
    changed = torch.minimum(changed.clamp(min=0), alpha)
    return torch.where(_chosen(n, share, random), changed, premultiplied)


def _grounds(n: int, share: float, random: Generator) -> Tensor:
    """Any colour for a share of the pictures, else white."""
    colours = torch.rand(n, 3, 1, 1, generator=random)
    return torch.where(_chosen(n, share, random), colours, torch.ones(1))


def _outlined(image: Tensor, alpha: Tensor, strength: float, random: Generator) -> Tensor:
    """Edges drawn in black over a fifth of the pictures, and a tenth of them as lines on white alone."""
    n = len(image)
    grey = torch.einsum("c,nchw->nhw", GREY, image)[:, None]
    both = torch.cat([grey, alpha], 1)
    kernel = torch.stack([SOBEL, SOBEL.T])[:, None].repeat(2, 1, 1, 1)
    slopes = functional.conv2d(functional.pad(both, (1, 1, 1, 1), mode="replicate"), kernel, groups=2)
    edges = (slopes.square().sum(1, keepdim=True).sqrt() * 0.7 - 0.2).clamp(0, 1)
    edges = functional.max_pool2d(edges, 3, 1, 1)
    overdrawn = image * (1 - edges)
    image = torch.where(_chosen(n, 0.2 * strength, random), overdrawn, image)
    return torch.where(_chosen(n, 0.1 * strength, random), 1 - edges.expand_as(image), image)


def _erased(image: Tensor, share: float, random: Generator) -> Tensor:
    """A rectangle of up to half the width and height in grey, in a share of the pictures."""
    n, _, height, width = image.shape
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    top, left = _uniform(n, 0, height, random)[:, None, None], _uniform(n, 0, width, random)[:, None, None]
    tall = _uniform(n, 0.1, 0.5, random)[:, None, None] * height
    wide = _uniform(n, 0.1, 0.5, random)[:, None, None] * width
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return torch.where(inside[:, None] & _chosen(n, share, random), torch.full((1,), 0.5), image)
