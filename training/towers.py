"""The two towers that are trained, and their file: timm's PE-Core T16 and a small text tower of open_clip's."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional

from pecore.convert.checkpoint import load
from pecore.convert.text_tower import load_text, pooled_text, text_config
from pecore.variants import Variant

FIRST_SCALE = 1 / 0.07
"""Of the logits, as CLIP starts; `LARGEST_SCALE` is where CLIP stops it."""
LARGEST_SCALE = 100.0
CHUNK = 256


class Towers(nn.Module):
    """Image and text tower with one embedding space, and the scale of their cosines."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        name = variant.timm_name.partition(".")[0]
        self.visual = timm.create_model(name, img_size=variant.image_size, dynamic_img_size=True)
        self.text = TextTransformer(**asdict(text_config(variant)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def images(self, pixels: Tensor) -> Tensor:
        """`[n, 3, size, size]` in [-1, 1] to unit vectors `[n, dim]` float32."""
        return self._unit(self.visual(pixels).float())

    def texts(self, ids: Tensor) -> Tensor:
        """`[n, context_length]` int64 to unit vectors `[n, dim]` float32."""
        return self._unit(pooled_text(self.text, ids).float())

    def _unit(self, vectors: Tensor) -> Tensor:
        """While training without the batch's mean: else all vectors first fall together, and hundreds of steps pass
        until they part again. `settle` puts that mean into the towers."""
        return functional.normalize(vectors - vectors.mean(0) if self.training else vectors, dim=-1)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)


@torch.no_grad()
def settle(towers: Towers, images: Tensor, ids: Tensor) -> None:
    """Fold the mean embedding of these images, and of these texts, into the biases before it, in place: evaluated, the
    towers then do what they did in training."""
    towers.eval()
    towers.visual.head.bias -= torch.cat([towers.visual(part) for part in images.split(CHUNK)]).mean(0)
    text = towers.text
    mean = torch.cat([pooled_text(text, part) for part in ids.split(CHUNK)]).mean(0)
    # The mean of the projected vectors is the projection of a mean: there is one, as the projection has full rank.
    text.ln_final.bias -= torch.linalg.lstsq(text.text_projection.T, mean).solution


def read_checkpoint(towers: Towers, variant: Variant, path: Path) -> None:
    """What `write_checkpoint` wrote, into these towers.

    Raises:
        InputError: whatever can't be read, or does not fit.
    """
    towers.visual.load_state_dict(load(variant, path).state_dict)
    text = load_text(variant, path)
    towers.text.load_state_dict(text.state_dict)
    nn.init.constant_(towers.log_scale, math.log(text.logit_scale))


def write_checkpoint(towers: Towers, path: Path) -> None:
    """One safetensors file with open_clip's keys, float16; `logit_scale` is a logarithm, as there."""
    from safetensors.torch import save_file

    tensors = {f"visual.trunk.{key}": tensor for key, tensor in towers.visual.state_dict().items()}
    tensors |= {f"text.{key}": tensor for key, tensor in towers.text.state_dict().items() if key != "attn_mask"}
    tensors["logit_scale"] = towers.scale.log()
    save_file({key: tensor.detach().half().contiguous() for key, tensor in tensors.items()}, path)
