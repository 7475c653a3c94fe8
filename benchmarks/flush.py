"""What a GPU that flushes fp16's subnormal numbers makes of a tower, under the stream's scale that is chosen and 1/32.

    python -m benchmarks.flush
    python -m benchmarks.flush --size T16 --amplitudes 400

Simulated in PyTorch: weights are rounded to fp16, and those below 2^-14 set to 0; arithmetic is float32. The figure is
the lowest cosine with timm's tower over three photographs. Synthetic weights, seeded.
"""

import argparse
import copy
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.section import nines, table
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.timm_tower import preprocessing
from pecore.convert.towers import build_tower
from pecore.rewrites import rewrite
from pecore.validate.ablation_variants import TimmTower
from pecore.validate.headroom import FP16_SMALLEST_NORMAL, STREAM_SCALES, fit_scales, scales_with
from pecore.validate.photographs import photographs, tower_inputs
from pecore.validate.subnormal import subnormal_weights
from pecore.variants import find

AMPLITUDES = (0.0, 400.0, 2000.0, 8000.0, 20000.0)
HEADINGS = ("amplitude", "stream's scale", "norms with a gain", "fc2's weights lost", "subnormals kept", "flushed")


def rounded(tower: nn.Module, flush: bool) -> nn.Module:
    """A copy with fp16 weights, subnormal ones set to 0 where `flush`."""
    tower = copy.deepcopy(tower)
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = module.weight.data.half().float()
            module.weight.data = weight * (weight.abs() >= FP16_SMALLEST_NORMAL) if flush else weight
    return tower


def lowest_cosine(tower: nn.Module, expected: list[Tensor], images: list[Tensor]) -> float:
    """Over images `[1, 3, s, s]`."""
    return min(float(F.cosine_similarity(tower(i).double(), e.double())) for i, e in zip(images, expected))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=AMPLITUDES)
    options = parser.parse_args()
    variant = find(options.size)
    images = tower_inputs([photo for _, photo in photographs()][:3], variant.image_size, preprocessing(variant))
    rows = []
    for amplitude in options.amplitudes:
        model = build_tower(variant, synthetic_state_dict(variant, amplitude=amplitude))
        expected = [TimmTower(model, torch.float32).eval()(image) for image in images]
        chosen, reductions = fit_scales(model, images)
        for scales in (scales_with(reductions, STREAM_SCALES[-1]), chosen):
            tower = rewrite(model, scales)
            lost = {s.kind: s.lost for s in subnormal_weights(tower)}["blocks.*.mlp.fc2"]
            figures = [str(Fraction(scales.stream)), str(len(scales.gains)), f"{100 * lost:.2f} %"]
            cosines = [lowest_cosine(rounded(tower, flush), expected, images) for flush in (False, True)]
            rows.append([f"{amplitude:g}", *figures, *map(nines, cosines)])
    print(table(HEADINGS, rows))


if __name__ == "__main__":
    main()
