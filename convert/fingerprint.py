"""Which vision weights a text tower belongs to, whatever file either came in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pecore.errors import InputError

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


def mismatch(text: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Why embeddings of a text tower can't be compared with another tower's, or None where they can.

    Args:
        text, other: what manifests keep of the weights: kind, source, synthetic, seed and fingerprint (of the vision
            tower, which the text's checkpoint file holds as well; None for synthetic texts). Both of one variant.
    """
    one, two = text["fingerprint"], other.get("fingerprint")
    if text["synthetic"] != other["synthetic"]:
        same = False
    elif one is not None and one == two:
        same = True
    elif text["synthetic"]:
        same = None in (one, two) and text["seed"] == other["seed"]
    else:  # the hub's two repositories of a variant are the publisher's split of one checkpoint
        same = text["kind"] == other["kind"] == "hub"
    return None if same else f"from {other['source']}, not from {text['source']}"


def check_partner(
    text: Mapping[str, Any], size: str, other: Mapping[str, Any] | None, other_size: str, where: str
) -> None:
    """Refuse to use a text tower's embeddings together with what another checkpoint made.

    Args:
        text, other: as `mismatch` takes them; `other` may be None where only the sizes are to be compared.
        size, other_size: of the variants.
        where: the bundle that `other` is in, for the message.

    Raises:
        InputError: naming both.
    """
    if size != other_size:
        reason: str | None = f"of {other_size}, not of {size}"
    else:
        reason = mismatch(text, other) if other else None
    if reason:
        raise InputError(
            f"what {where} holds is {reason}, and embeddings of different checkpoints can't be compared: make both "
            "from the same one, or give another folder"
        )
