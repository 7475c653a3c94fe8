"""Seeded weights with a trained tower's statistics, for converting and measuring without the real ones.

Random initialisation proves little about a conversion: LayerNorm weights of 1 and biases of 0 hide a wrong fold, and
a residual stream of order 1 never comes near fp16's limits. Here every tensor is away from its neutral value,
attention is neither uniform nor one-hot, every block changes what the next one sees, and from the second block on a
few channels carry *massive activations* (https://arxiv.org/abs/2402.17762), the same large value for every token.

A trained tower lives with those because its later LayerNorms are trained against them: the massive channels get small
weights, the others large ones. So it is here; without that the later blocks would see next to nothing of the image.

How fast the residual stream of a Perception Encoder grows is known (`BRANCH`), and its norms follow it. Other towers
are filled and then `level`led: a gated MLP multiplies two projections of what its norm gives, so that norms which are a
little too loud are far too loud some blocks later, and such a tower amplifies any rounding.

Such weights classify nothing. The same seed gives the same bytes on every platform: the random bits are PCG64's raw
stream, which numpy keeps stable, and what follows is exactly rounded arithmetic (no exp, no log) or a power of two.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pecore.convert.memory import SPILL, mapped_tensors
from pecore.convert.towers import build_tower, tower_shapes
from pecore.errors import InputError
from pecore.rewrites.tower import layer_scale, post_norm
from pecore.variants import Variant

LOGIT_SCALE = 100.0  # what CLIP training clamps it to, and where it usually ends
CHUNK = 1 << 18  # numbers drawn at a time: what fits a CPU cache is several times faster
MASSIVE = (1.0, -0.9, -0.8, 0.7)  # in amplitudes; they sum to 0, so the mean over channels stays the image's
AMPLITUDE_LIMIT = 1e5  # beyond it float32 itself loses digits of the image: no fair reference

# Standard deviations; a weight matrix's is its gain (1 where none is given) / sqrt(fan_in), which keeps variance.
NORM_SPREAD = 0.2  # LayerNorm weights around 1
BIAS = 0.1
EMBED = 0.3  # class token, registers, position table, learned frequencies of RoPE
GAINS = {"attn.proj.weight": 0.7, "mlp.fc2.weight": 0.9}
QK_GAIN = 1.5  # attention logits of standard deviation 1 to 2 on a Perception Encoder's photographs
QK_GAIN_OTHERS = 1.0  # the deepest of the other towers would come to logits of 82: one-hot, and float32 unlike float64
QK_ROWS = {  # rows for q and k, in widths
    **{"attn.qkv.weight": 2, "attn.q_proj.weight": 1, "attn.k_proj.weight": 1},
    **{"attn_pool.q.weight": 1, "attn_pool.kv.weight": 1},
}
BRANCH = 0.36  # variance one residual branch adds to the stream, as measured with the figures above


def synthetic_state_dict(variant: Variant, seed: int = 0, amplitude: float = 400.0) -> dict[str, torch.Tensor]:
    """State dict of timm's tower for `variant` (float32, all keys), drawn from `seed`.

    `amplitude` is the largest absolute value in the residual stream after the second block (the first, where there is
    only one, and in towers that are no PE), carried by four channels drawn from `seed`; 0 leaves massive activations
    out. Each tensor is drawn from its own stream, so a shallower tower has the very blocks of a deeper one. Raises
    InputError when amplitude is not between 0 and AMPLITUDE_LIMIT.
    """
    if not 0 <= amplitude <= AMPLITUDE_LIMIT:
        raise InputError(f"amplitude {amplitude:g} is not between 0 and {AMPLITUDE_LIMIT:g}: try 400")
    if not variant.is_pe:
        return dict(fill(build_tower(variant), amplitude, seed).state_dict())
    shapes = tower_shapes(variant)
    state_dict = {}
    keep = keeper(shapes)
    for key, shape in shapes.items():
        state_dict[key] = keep(key, _tensor(key, shape, variant.width, seed))
    if amplitude:
        _add_massive_activations(state_dict, variant, seed, amplitude)
    return state_dict


def keeper(shapes: Mapping[str, tuple[int, ...]]) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """What puts each of a state dict's tensors where it is kept: large ones all in a file."""
    if 4 * sum(map(math.prod, shapes.values())) <= SPILL:
        return lambda key, tensor: tensor
    try:
        spilled = mapped_tensors(shapes)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()} has no room for {4 * sum(map(math.prod, shapes.values())) / 1e9:.1f} GB of "
            f"synthetic weights ({error.strerror}): set TMPDIR to a folder that has"
        ) from error
    return lambda key, tensor: spilled[key].copy_(tensor)


def normal(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Float32 tensor of zero mean and unit variance, close to normal, that depends on name, shape and seed only.

    Each number is the sum of four uniform 16-bit integers, so none is beyond 3.47 standard deviations.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    stream = np.random.PCG64(int.from_bytes(digest[:16], "little"))
    out = np.empty(math.prod(shape), np.float32)
    for chunk in np.split(out, range(CHUNK, out.size, CHUNK)):
        bits = stream.random_raw(chunk.size)
        pairs = (bits & 0xFFFF0000FFFF) + (bits >> 16 & 0xFFFF0000FFFF)
        chunk[:] = (pairs + (pairs >> 32)) & 0xFFFFFFFF  # below 2^18, so exact in float32
        chunk -= 2 * 0xFFFF
        chunk /= np.float32(math.sqrt((2**32 - 1) / 3))
    return torch.from_numpy(out).reshape(shape)


def massive_channels(width: int, seed: int) -> list[int]:
    """The channels of the residual stream that carry MASSIVE, in its order."""
    return torch.argsort(normal("massive channels", (width,), seed), stable=True)[: len(MASSIVE)].tolist()


@torch.no_grad()
def fill(model: Any, amplitude: float = 0.0, seed: int = 7) -> Any:
    """Any tower of timm's with such weights in place of its own, massive activations from the first block on; returns
    it."""
    for key, parameter in model.named_parameters():
        parameter.copy_(_tensor(key, tuple(parameter.shape), model.embed_dim, seed, QK_GAIN_OTHERS))
    channels = massive_channels(model.embed_dim, seed) if amplitude else []
    if post_norm(model):
        _tone_down(model, channels, amplitude)
    if amplitude:
        first = model.blocks[0]
        gamma = layer_scale(first, 2)
        values = amplitude * torch.tensor(MASSIVE)
        writer = first.norm2 if post_norm(model) else first.mlp.fc2
        writer.bias[channels] = values if gamma is None else values / gamma[channels]
    level(model, channels, normal("picture", (1, 3, *model.patch_embed.img_size), seed))
    return model


def level(model: Any, channels: Sequence[int], picture: Tensor) -> None:
    """Scale the weights of every norm that reads the residual stream so that on `picture` `[1, 3, H, W]` what it gives
    has a mean square near 1, and nothing far above 1 on the massive `channels`. By powers of two: they come out the
    same wherever the forward pass is rounded otherwise."""
    norms = [model.norm, model.fc_norm]
    norms += [] if post_norm(model) else [norm for block in model.blocks for norm in (block.norm1, block.norm2)]
    hooks = [
        norm.register_forward_hook(partial(_leveled, channels=channels))
        for norm in norms
        if not isinstance(norm, nn.Identity)
    ]
    model(picture)
    for hook in hooks:
        hook.remove()


def _leveled(norm: Any, given: tuple[Tensor, ...], out: Tensor, *, channels: Sequence[int]) -> Tensor:
    """A forward hook: a norm's new weights, and what it gives with them."""
    bias = getattr(norm, "bias", None)
    size = (out if bias is None else out - bias).flatten(0, -2).square().mean(0).sqrt()  # of each channel
    ordinary = torch.ones_like(size, dtype=torch.bool)
    ordinary[list(channels)] = False
    factor = torch.full_like(size, float(size[ordinary].square().mean().sqrt()))
    factor[list(channels)] = size[list(channels)].clamp(min=1.0)
    norm.weight *= torch.exp2(-factor.log2().round())
    return norm.forward(*given)


def _tone_down(model: Any, channels: Sequence[int], amplitude: float) -> None:
    """Post-norm blocks: Linears read the stream itself, which their norms write to."""
    branches = 0
    for block in model.blocks:
        for linear, norm in ((block.attn.qkv, block.norm1), (block.mlp.fc1, block.norm2)):
            linear.weight /= math.sqrt(1 + BRANCH * branches)
            if branches > 1:
                linear.weight[:, channels] /= max(1.0, amplitude)
            norm.weight *= math.sqrt(BRANCH)
            branches += 1


def _tensor(key: str, shape: tuple[int, ...], width: int, seed: int, qk_gain: float = QK_GAIN) -> torch.Tensor:
    z = normal(key, shape, seed)
    if key == "attn_pool.latent":
        return z
    if key.endswith("bias"):
        return z * BIAS
    if len(shape) == 1:
        return 1 + z * NORM_SPREAD
    if not key.endswith(".weight"):
        return z * EMBED
    suffix = ".".join(key.split(".")[-3:])
    z *= GAINS.get(suffix, 1.0) / math.sqrt(math.prod(shape[1:]))
    z[: QK_ROWS.get(suffix, 0) * width] *= qk_gain
    return z


def _add_massive_activations(
    state_dict: dict[str, torch.Tensor], variant: Variant, seed: int, amplitude: float
) -> None:
    channels = massive_channels(variant.width, seed)
    values = amplitude * torch.tensor(MASSIVE, dtype=torch.float64)
    first = min(1, variant.depth - 1)
    gamma = state_dict.get(f"blocks.{first}.gamma_2")
    values_before = values if gamma is None else values / gamma[channels]
    state_dict[f"blocks.{first}.mlp.fc2.bias"][channels] = values_before.float()
    power = float(values.square().sum()) / variant.width
    norms = {f"blocks.{i}.norm{n}": 2 * i + n - 1 for i in range(first + 1, variant.depth) for n in (1, 2)}
    if variant.final_norm:
        norms["norm"] = 2 * variant.depth
    for norm, branches in norms.items():
        ordinary = 1 + BRANCH * branches  # mean square of the other channels
        weight = state_dict[f"{norm}.weight"]
        massive = weight[channels] / max(1.0, amplitude / math.sqrt(ordinary + power))
        weight *= math.sqrt(1 + power / ordinary)
        weight[channels] = massive
