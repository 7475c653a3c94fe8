"""How litert-torch lowers our custom ops: `rewrites.matmul.matmul4d` to a `stablehlo.dot_general`, which becomes one
rank-4 BATCH_MATMUL, and `rewrites.barrier.barrier` to a `stablehlo.optimization_barrier`, which becomes nothing."""

import torch

import pecore.rewrites.barrier
import pecore.rewrites.matmul  # noqa: F401  (they define the ops)


def register_lowering() -> None:
    """Teach litert-torch to lower them. Call it once before `litert_torch.convert`; calling it again changes
    nothing."""
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend import lowerings

    @lowerings.lower(torch.ops.pecore.matmul4d.default)
    def _lower_matmul(lctx, lhs: ir.Value, rhs: ir.Value):
        shape = [*lhs.type.shape[:3], rhs.type.shape[3]]
        axes = stablehlo.DotDimensionNumbers.get(
            lhs_batching_dimensions=[0, 1],
            rhs_batching_dimensions=[0, 1],
            lhs_contracting_dimensions=[3],
            rhs_contracting_dimensions=[2],
        )
        return stablehlo.dot_general(ir.RankedTensorType.get(shape, lhs.type.element_type), lhs, rhs, axes)

    @lowerings.lower(torch.ops.pecore.barrier.default)
    def _lower_barrier(lctx, x: ir.Value):
        return stablehlo.optimization_barrier([x])
