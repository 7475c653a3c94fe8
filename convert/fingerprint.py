"""Which vision weights a text tower belongs to, whatever file either came in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of a vision tower's weights, from timm's state dict (`checkpoint.Weights.state_dict`).

    The same for timm's file, open_clip's and Meta's of one checkpoint, although those files' sha256 differ: names,
    shapes and values in float16, sorted by name. float16, so that a copy stored in half precision is the same one.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().half().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype(np.dtype("<f2"), copy=False).data)
    return digest.hexdigest()
