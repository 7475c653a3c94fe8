"""Matrix product that stays a rank-4 BATCH_MATMUL.

The limitation: `torch.matmul` on rank-4 tensors is lowered by litert-torch to RESHAPE + rank-3 BATCH_MATMUL + RESHAPE,
and rank-3 BATCH_MATMUL in attention is silently wrong on Adreno GPUs with LiteRT 2.1.6 (LiteRT issues 8619 and 10445).

The workaround: a custom op of our own, which `convert/lowering.py` lowers to one `stablehlo.dot_general` with two batch
dimensions; the converter turns that into one rank-4 BATCH_MATMUL with adj_x = adj_y = false. A transpose that feeds it
directly would be folded into adj_y, which delegates have ignored or got wrong (LiteRT issue 6518, pull request 8912):
keep one op between them, as `attention.py` does.

Exact because: the same products, summed over the same axis.
"""

import torch
from torch import Tensor, nn


@torch.library.custom_op("pecore::matmul4d", mutates_args=())
def matmul4d(lhs: Tensor, rhs: Tensor) -> Tensor:
    """`[b, h, m, k] @ [b, h, k, n] -> [b, h, m, n]`, any float dtype."""
    return lhs @ rhs


@matmul4d.register_fake
def _(lhs: Tensor, rhs: Tensor) -> Tensor:
    if lhs.ndim != 4 or rhs.ndim != 4 or lhs.shape[:2] != rhs.shape[:2] or lhs.shape[3] != rhs.shape[2]:
        raise ValueError(f"matmul4d takes [b, h, m, k] and [b, h, k, n], not {tuple(lhs.shape)} and {tuple(rhs.shape)}")
    return lhs.new_empty((*lhs.shape[:3], rhs.shape[3]))


class MatMul(nn.Module):
    """`matmul4d` as a module, so that its output has a name that hooks can find."""

    def forward(self, lhs: Tensor, rhs: Tensor) -> Tensor:
        return matmul4d(lhs, rhs)
