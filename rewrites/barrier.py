"""An identity that the converter doesn't look through.

The limitation: the converter moves RESHAPEs to where they cost it nothing, and ML Drift pays. It adds LayerNorm's eps
before it restores MEAN's kept axis, which puts a RESHAPE into the form that the delegate knows as one kernel
(`norm.py`); and it takes the attention's output to rank 2 for the projection, which keeps the residual ADD from being
fused into it (`attention.py`).

The workaround: a custom op of our own, which `convert/lowering.py` lowers to `stablehlo.optimization_barrier`. It is
gone from the finished graph: the ops on either side of it stay as they were written.

Exact because: it computes nothing.
"""

import torch
from torch import Tensor


@torch.library.custom_op("pecore::barrier", mutates_args=())
def barrier(x: Tensor) -> Tensor:
    """`x`, any shape and dtype; a copy, as custom ops may not return their argument."""
    return x.clone()


@barrier.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
