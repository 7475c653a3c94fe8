"""The rank-4 matrix product."""

import pytest
import torch

from pecore.convert.lowering import register_lowering
from pecore.rewrites.matmul import MatMul, matmul4d


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_is_torch_s_product(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    lhs = torch.randn(1, 3, 5, 8, generator=generator).to(dtype)
    rhs = torch.randn(1, 3, 8, 7, generator=generator).to(dtype)
    torch.testing.assert_close(MatMul()(lhs, rhs), lhs @ rhs)  # up to each dtype's rounding


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 5, 8), (3, 8, 7)),  # rank 3, which phones have computed wrongly
        ((1, 3, 5, 8), (8, 7)),
        ((1, 3, 5, 8), (1, 1, 8, 7)),  # would broadcast
        ((1, 3, 5, 8), (1, 3, 7, 8)),  # the right side not transposed
    ],
)
def test_other_shapes_are_refused_when_a_graph_is_traced(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with (
        torch._subclasses.FakeTensorMode(),
        pytest.raises(ValueError, match=r"matmul4d takes \[b, h, m, k\] and \[b, h, k, n\], not"),
    ):
        matmul4d(torch.empty(left), torch.empty(right))


def test_traces_as_one_op() -> None:
    shapes = torch.empty(1, 2, 3, 4), torch.empty(1, 2, 4, 5)
    graph = torch.export.export(MatMul(), shapes).graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    assert [node.target for node in calls] == [torch.ops.pecore.matmul4d.default]
    assert tuple(calls[0].meta["val"].shape) == (1, 2, 3, 5)


def test_lowering_can_be_registered_again() -> None:
    register_lowering()
    register_lowering()
