"""What a GPU that flushes fp16's subnormal numbers would make of B/16, simulated in PyTorch.

    python benchmarks/bench_flush.py

Every weight is rounded to fp16, and, in the columns `flushed`, those below 2^-14 are set to 0. Two ways to give loud
norms their headroom: gains of their own (what `validate/headroom.py` chooses), and a smaller scale for the whole
residual stream. The lowest cosine with the unrounded tower over the photographs. Synthetic weights.
"""

import copy
import dataclasses
import math

import torch
from torch import Tensor, nn

from pecore.convert.checkpoint import load
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate.headroom import ENOUGH, FP16_MAX, FP16_SMALLEST_NORMAL, STREAM_SCALE, Reduction, fit_scales
from pecore.validate.photographs import photographs
from pecore.variants import find

AMPLITUDES = (400.0, 2000.0, 8000.0, 20000.0)


def rounded(tower: nn.Module, flush: bool) -> nn.Module:
    """A copy with fp16 weights."""
    tower = copy.deepcopy(tower)
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = module.weight.data.half().float()
            module.weight.data = weight * (weight.abs() >= FP16_SMALLEST_NORMAL) if flush else weight
    return tower


def scaled_stream(scales: Scales, reductions: list[Reduction]) -> Scales:
    """The alternative: the stream's scale small enough for its loudest norm, no gain below 1."""
    loudest = max(r.unscaled for r in reductions if r.name == "norm" or r.name.endswith((".norm1", ".norm2")))
    stream = min(STREAM_SCALE, 2.0 ** math.floor(math.log2(FP16_MAX / ENOUGH / loudest) / 2))
    gains = {name: STREAM_SCALE / stream for name, _ in scales.gains.items() if scales.gains[name] > 1}
    return dataclasses.replace(scales, stream=stream, gains=gains)


@torch.no_grad()
def lowest_cosine(tower: nn.Module, other: nn.Module, images: list[Tensor]) -> float:
    return min(float((tower(image).double() * other(image).double()).sum()) for image in images)


def main() -> None:
    variant = find("B16")
    images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in photographs()][:3]
    print("| amplitude | gains below 1 | kept | flushed | stream instead | kept | flushed |")
    print("|---|---|---|---|---|---|---|")
    for amplitude in AMPLITUDES:
        model = build_tower(variant, load(variant, "synthetic", amplitude=amplitude).state_dict)
        scales, reductions = fit_scales(model, images)
        cells = [f"{amplitude:g}", str(sum(gain < 1 for gain in scales.gains.values()))]
        for chosen in (scales, scaled_stream(scales, reductions)):
            tower = rewrite(model, chosen)
            if chosen is not scales:
                cells.append(f"1/{1 / chosen.stream:g}")
            cells += [f"{lowest_cosine(tower, rounded(tower, flush), images):.7f}" for flush in (False, True)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
