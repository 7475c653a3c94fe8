"""Gate 1: the rewritten tower against timm's, both in float64. Exactness is not a tolerance: rounding in float64 is all
that is left."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewrites.tower import Scales, Stem, rewrite, rewrite_block, rewrite_tail, rotation

LARGEST_DIFFERENCE = 1e-10

WHOLE_TOWER_PARAMETERS = 400_000_000
"""Above this the towers are compared block by block, one block of each in float64 at a time (L/14, 317 M, still goes
whole: 2.5 GB)."""


def max_difference(model: Any, scales: Scales, image: Tensor, keep_norm_weights: bool = False) -> float:
    """Largest |difference| between timm's tower and its rewrite, in float64.

    Args:
        model: timm's tower, any dtype; not touched.
        scales, keep_norm_weights: as `rewrite` takes them.
        image: `[1, 3, H, W]` in [-1, 1].
    """
    if sum(p.numel() for p in model.parameters()) > WHOLE_TOWER_PARAMETERS:
        return max(block_differences(model, scales, image, keep_norm_weights).values())
    with torch.no_grad():
        theirs = F.normalize(_float64(model)(image.double()), dim=-1)
        ours = rewrite(model, scales, dtype=torch.float64, keep_norm_weights=keep_norm_weights)(image.double())
    return _difference(ours, theirs)


@torch.no_grad()
def block_differences(model: Any, scales: Scales, image: Tensor, keep_norm_weights: bool = False) -> dict[str, float]:
    """The same part by part: stem, every block (each fed what timm's blocks before it made), and the tail, by name."""
    rope = rotation(model, torch.float64)
    their_rope = None if rope is None else model.rope.get_embed().double()
    patches = _float64(model.patch_embed)(image.double())
    theirs = _float64(model.norm_pre)(_embed_positions(model, patches))
    ours = Stem(model, scales, "nchw", "-1..1", torch.float64)(image.double())
    found = {"stem": _difference(ours / scales.stream, _centred(theirs))}
    for i, block in enumerate(model.blocks):
        stream = _centred(theirs) * scales.stream
        ours = rewrite_block(model, i, rope, scales, torch.float64, keep_norm_weights)(stream)
        theirs = _float64(block)(theirs, rope=their_rope)
        found[f"blocks.{i}"] = _difference(ours / scales.stream, _centred(theirs))
    norm, pool, head = rewrite_tail(model, scales, torch.float64, keep_norm_weights)
    ours = head(pool(norm(_centred(theirs) * scales.stream)))
    tail = nn.Sequential(_float64(model.norm), _float64(model.attn_pool), _float64(model.head))
    found["tail"] = _difference(ours, F.normalize(tail(theirs), dim=-1))
    return found


def _float64(module: Any) -> Any:
    return copy.deepcopy(module).double().eval()


def _embed_positions(model: Any, patches: Tensor) -> Tensor:
    tokens = [t.double() for t in (model.cls_token, model.reg_token) if t is not None]
    positions = model.pos_embed.double()
    if model.no_embed_class:
        return torch.cat([*tokens, patches + positions], 1)
    return torch.cat([*tokens, patches], 1) + positions


def _centred(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True))[:, None]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
