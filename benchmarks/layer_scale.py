"""What a LayerScale's small factors cost in fp16 weights, where subnormal numbers are kept and where they are flushed.

    python -m benchmarks.layer_scale

DINOv3 small at 128 pixels with synthetic weights, every factor as the row says; weights rounded to fp16 in PyTorch. The
figure is the median, over the channels of the patch map, of the channel's relative error. `chosen` is the residual
stream's scale that `validate.headroom.fit_scales` picks; the other columns have 1/32, the smallest there is.
"""

from dataclasses import replace
from fractions import Fraction

import timm
import torch
from torch import Tensor

from benchmarks.flush import rounded
from pecore.convert.synthetic import fill
from pecore.image import preprocess
from pecore.rewrites import Output, rewrite
from pecore.validate.headroom import STREAM_SCALES, fit_scales
from pecore.validate.photographs import photographs

FACTORS = (1.0, 0.1, 0.01)
SIDE = 128


def channel_error(found: Tensor, expected: Tensor) -> float:
    """The median over channels of a map `[1, C, h, w]`."""
    difference, size = ((t.flatten(2).norm(dim=2)) for t in (found - expected, expected))
    return float((difference / size).median())


@torch.no_grad()
def main() -> None:
    model = fill(timm.create_model("vit_small_patch16_dinov3", pretrained=False, img_size=SIDE)).eval()
    images = [torch.from_numpy(preprocess(image, SIDE)) for _, image in photographs()][:3]
    output = Output("features")
    print("| factor | chosen | kept | flushed | 1/32: kept | flushed |")
    print("|---|---|---|---|---|---|")
    for factor in FACTORS:
        for block in model.blocks:
            for gamma in (block.gamma_1, block.gamma_2):
                gamma.data.fill_(factor)
        scales, _ = fit_scales(model, images, output)
        cells = [f"{factor:g}", str(Fraction(scales.stream))]
        for chosen in (scales, replace(scales, stream=STREAM_SCALES[-1])):
            tower = rewrite(model, chosen, output=output)
            expected = tower(images[0])
            cells += [f"{channel_error(rounded(tower, flush)(images[0]), expected):.0e}" for flush in (False, True)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
