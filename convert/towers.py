"""timm's own tower for a variant, with given weights or untrained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch

from pecore.convert.timm_tower import create
from pecore.variants import Variant

if TYPE_CHECKING:
    from timm.models.eva import Eva


def build_tower(
    variant: Variant,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Eva:
    """timm's own tower for `variant`, in eval mode, without gradients and without any download.

    Maps images [n, 3, image_size, image_size] to embeddings [n, embedding_dim] *before* L2 normalisation; without a
    head, to the mean of the patch tokens.

    With `state_dict` (timm's keys, all of them: a mismatch raises RuntimeError) the tower takes over those tensors
    instead of initialising its own, so it costs no second copy of the weights; where neither dtype nor device
    changes they stay shared, and neither side may be written to. Positions for `variant.trained_size` are interpolated
    as timm does it (bicubic, antialiased). Without `state_dict`, timm's untrained initialisation.
    """
    if state_dict is None:
        tower = _create(variant, variant.depth, device)
    elif not variant.is_pe:  # not from "meta": its buffers are of several kinds
        tower = _create(variant, variant.depth, device)
        tower.load_state_dict({k: v.to(device, dtype) for k, v in state_dict.items()}, strict=True, assign=True)
    else:
        tower = _create(variant, variant.depth, "meta")
        tensors = dict(state_dict)
        if variant.trained_size and "pos_embed" in tensors:
            tensors["pos_embed"] = _interpolated(tensors["pos_embed"], variant)
        tower.load_state_dict({k: v.to(device, dtype) for k, v in tensors.items()}, strict=True, assign=True)
        # The RoPE tables are no part of a state dict; a tower without blocks computes the same ones.
        tower.rope = _create(variant, 0, device).rope
    return tower.to(dtype).eval().requires_grad_(False)


@lru_cache(maxsize=32)
def tower_shapes(variant: Variant) -> Mapping[str, tuple[int, ...]]:
    """Key -> shape of the state dict that `build_tower(variant)` takes."""
    return {key: tuple(t.shape) for key, t in _create(variant, variant.depth, "meta").state_dict().items()}


def _interpolated(positions: torch.Tensor, variant: Variant) -> torch.Tensor:
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(positions, [variant.grid] * 2, num_prefix_tokens=int(variant.class_token))


def _create(variant: Variant, depth: int, device: str | torch.device) -> Eva:
    import timm  # takes seconds, and not every verb needs it

    if not variant.is_pe:
        return cast("Eva", create(variant, depth, device))
    with torch.device(device):
        tower = timm.create_model(
            variant.timm_name,
            pretrained=False,
            img_size=variant.image_size,
            embed_dim=variant.width,
            depth=depth,
            num_heads=variant.heads,
            mlp_ratio=variant.mlp_width / variant.width,
            attn_pool_num_heads=variant.pool_heads or None,
            num_classes=variant.embedding_dim,
        )
    return cast("Eva", tower)
