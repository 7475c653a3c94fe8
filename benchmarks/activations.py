"""Weights and activations of the trained tower beside synthetic ones of the same shape, for docs/numerics.md.

    python -m benchmarks.activations

Activations over scikit-image's five photographs and ten of tests/drawings, in PyTorch fp32; scales and headroom over
the photographs, as `pecore convert` chooses them. Seconds.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import results
from benchmarks.section import table
from pecore.convert.checkpoint import load
from pecore.convert.timm_tower import preprocessing
from pecore.convert.towers import build_tower
from pecore.image import load_image
from pecore.rewrites import rewrite
from pecore.validate.headroom import STREAM_SCALES, fit_scales, min_headroom, scales_with
from pecore.validate.photographs import photographs, tower_inputs
from pecore.validate.subnormal import subnormal_weights
from pecore.variants import find

SIZE = "drawings-T16"
DRAWINGS = results.ROOT / "tests" / "drawings" / "images"
BLOCKS = (0, 1, 5, 11)
"""After which the residual stream is looked at."""
KIND = "blocks.*.mlp.fc2"
"""Whose weights are counted: with `attn.proj`'s they carry the stream's scale."""


def drawings(count: int) -> Iterator[Any]:
    """A drawing of each of the first labels, RGB."""
    return (load_image(next(folder.iterdir())) for folder in islice(sorted(DRAWINGS.iterdir()), count))


@torch.no_grad()
def streams(model: Any, images: Sequence[Tensor]) -> list[Tensor]:
    """|x| of the residual stream after each of `BLOCKS`, `[images, tokens, channels]`."""
    found: dict[int, Tensor] = {}
    hooks = [
        model.blocks[i].register_forward_hook(lambda module, inputs, output, i=i: found.update({i: output.abs()}))
        for i in BLOCKS
    ]
    model(torch.cat(list(images)))
    for hook in hooks:
        hook.remove()
    return [found[i] for i in BLOCKS]


@torch.no_grad()
def column(weights: str) -> dict[str, str]:
    """What is measured -> figures, of the tower with `weights` as `pecore convert --weights` takes them."""
    variant = find(SIZE)
    model = build_tower(variant, load(variant, weights).state_dict)
    photos = tower_inputs((photo for _, photo in photographs()), variant.image_size, preprocessing(variant))
    drawn = tower_inputs(drawings(10), variant.image_size, preprocessing(variant))
    seen = streams(model, [*photos, *drawn])
    scales, reductions = fit_scales(model, photos)
    norms = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.LayerNorm)])
    linears = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    shares = []
    for stream in (1.0, scales.stream, STREAM_SCALES[-1]):
        kinds = subnormal_weights(rewrite(model, scales_with(reductions, stream)))
        shares += [f"{100 * kind.share:.1f} %" for kind in kinds if kind.kind == KIND]
    tightest = min_headroom(reductions)
    after = ", ".join(str(block) for block in BLOCKS)
    return {
        f"largest activation of the residual stream, after block {after}": ", ".join(f"{x.max():.0f}" for x in seen),
        "the median of its absolute values": ", ".join(f"{x.median():.1f}" for x in seen),
        "LayerNorm weights: mean, standard deviation, range": f"{norms.mean():.2f}, {norms.std():.2f}, "
        f"{norms.min():.2f} to {norms.max():.2f}",
        "standard deviation of the Linears' weights": f"{linears.std():.3f}",
        "the residual stream's scale": str(Fraction(scales.stream)),
        "`mlp.fc2`'s weights below fp16's normal numbers, at a scale of 1, at that one, at 1/32": ", ".join(shares),
        "least headroom": f"{tightest.headroom:.0f}x ({tightest.name})",
    }


def main() -> None:
    trained, synthetic = column("hub"), column("synthetic")
    print(table(("", "trained", "synthetic"), [[what, trained[what], synthetic[what]] for what in trained]))


if __name__ == "__main__":
    main()
