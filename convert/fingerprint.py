"""Which vision weights a text tower belongs to, whatever file either came in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of a vision tower's weights, from timm's state dict (`checkpoint.Weights.state_dict`).

    The same for timm's file, open_clip's and Meta's of one checkpoint, although those files' sha256 differ: names,
    shapes and values in float16, sorted by name. float16, so that a copy stored in half precision is the same one.
    """
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().half().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype(np.dtype("<f2"), copy=False).data)
    return digest.hexdigest()


def mismatch(text: Mapping[str, Any], vision: Mapping[str, Any]) -> str | None:
    """Why a text tower's weights are not the partner of a vision tower's, or None where they are.

    Args:
        text, vision: what a manifest keeps of the weights: kind, source, synthetic, seed and fingerprint (of the vision
            tower, which the text's checkpoint file holds as well). Both of the same variant.
    """
    if text["synthetic"] or vision["synthetic"]:
        same = text["synthetic"] == vision["synthetic"] and text["seed"] == vision["seed"]
    else:
        # The hub's two repositories of a variant are its publisher's split of one checkpoint.
        same = text["kind"] == vision["kind"] == "hub" or (
            vision.get("fingerprint") is not None and text["fingerprint"] == vision["fingerprint"]
        )
    return None if same else f"text of {text['source']}, images of {vision['source']}"
