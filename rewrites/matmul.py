"""Matrix product that stays a rank-4 BATCH_MATMUL.

The wall: `torch.matmul` on rank-4 tensors is lowered by litert-torch to RESHAPE + rank-3 BATCH_MATMUL + RESHAPE, and
rank-3 BATCH_MATMUL in attention is silently wrong on Adreno GPUs with LiteRT 2.1.6 (LiteRT issues 8619 and 10445).

The way round: a custom op of our own, lowered to one `stablehlo.dot_general` with two batch dimensions, which the
converter turns into one rank-4 BATCH_MATMUL with adj_x = adj_y = false. A transpose that feeds it directly would be
folded into adj_y, which delegates have ignored or got wrong (LiteRT issue 6518, pull request 8912): keep one op between
them, as `attention.py` does.

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


def register_lowering() -> None:
    """Teach litert-torch to lower `matmul4d`. Call it once before `litert_torch.convert`; calling it again changes
    nothing."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend import lowerings

    @lowerings.lower(torch.ops.pecore.matmul4d.default)
    def _lower(lctx, lhs: ir.Value, rhs: ir.Value):
        shape = [*lhs.type.shape[:3], rhs.type.shape[3]]
        axes = stablehlo.DotDimensionNumbers.get(
            lhs_batching_dimensions=[0, 1],
            rhs_batching_dimensions=[0, 1],
            lhs_contracting_dimensions=[3],
            rhs_contracting_dimensions=[2],
        )
        return stablehlo.dot_general(ir.RankedTensorType.get(shape, lhs.type.element_type), lhs, rhs, axes)
