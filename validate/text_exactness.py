"""Gate 1 for text towers: open_clip's tower and its rewrite, both in float64, part by part."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pecore.rewrites.text import TextStem, rewrite_text_block, rewrite_text_tail
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
    found = [TextStem(model, scales, torch.float64)(tokens) / scales.stream - centred(theirs)]
    for i, block in enumerate(model.transformer.resblocks):
        ours = rewrite_text_block(model, i, scales, torch.float64, keep_norm_weights)(centred(theirs) * scales.stream)
        theirs = float64(block)(theirs, attn_mask=mask)
        found.append(ours / scales.stream - centred(theirs))
    pool, norm, head = rewrite_text_tail(model, scales, end, torch.float64)
    ours = head(norm(pool(centred(theirs) * scales.stream, tokens)).flatten(1))
    pooled = float64(model.ln_final)(theirs)[:, int(tokens.argmax())]
    found.append(ours - F.normalize(pooled @ model.text_projection.double(), dim=-1))
    return max(float(difference.abs().max()) for difference in found)
