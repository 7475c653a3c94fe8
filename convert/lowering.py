"""How litert-torch lowers `rewrites.matmul.matmul4d`: to a `stablehlo.dot_general`, one rank-4 BATCH_MATMUL."""

import torch

import pecore.rewrites.matmul  # noqa: F401  (defines the op)


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
