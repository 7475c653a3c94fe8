"""Gate 1 for text towers: open_clip's tower and its rewrite, both in float64, part by part."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pecore.rewrites.text import rewrite_text_parts
from pecore.rewrites.tower import Scales


@torch.no_grad()
def max_difference(model: Any, scales: Scales, tokens: Tensor, end: int, keep_norm_weights: bool = False) -> float:
    """Largest |difference| between open_clip's text tower and its rewrite, in float64: stem, every block (each fed what
    open_clip's before it made), and the tail.

    Args:
        model: open_clip's tower, any dtype; not touched.
        scales, end, keep_norm_weights: as `rewrite_text` takes them.
        tokens: `[1, context_length]` int32.
    """

    def float64(module: Any) -> Any:
        return copy.deepcopy(module).double()

    def centred(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True))[:, None]

    mask = model.attn_mask.double()
    theirs = model.token_embedding(tokens).double() + model.positional_embedding.double()
    parts = rewrite_text_parts(model, scales, end, torch.float64, keep_norm_weights)
    _, stem = next(parts)
    found = [stem(tokens) / scales.stream - centred(theirs)]
    del stem
    for block, (_, part) in zip(model.transformer.resblocks, parts):
        ours = part(centred(theirs) * scales.stream)
        theirs = float64(block)(theirs, attn_mask=mask)
        found.append(ours / scales.stream - centred(theirs))
    _, tail = next(parts)
    ours = tail.end(centred(theirs) * scales.stream, tokens)
    pooled = float64(model.ln_final)(theirs)[:, int(tokens.argmax())]
    found.append(ours - F.normalize(pooled @ model.text_projection.double(), dim=-1))
    return max(float(difference.abs().max()) for difference in found)
