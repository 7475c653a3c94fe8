"""The op that the converter doesn't look through."""

import torch

from pecore.convert.export import export_tflite
from pecore.rewrites.barrier import barrier
from pecore.rewrites.norm import ScaledLayerNorm
from pecore.validate.graph import read_graph

FUSED = ["MEAN", "SUB", "MUL", "MEAN", "ADD", "RSQRT", "MUL"]
"""The LayerNorm that ML Drift runs as one kernel: MEAN keeps its axis, eps is a single number."""


def test_it_is_the_identity_and_no_view() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(barrier(x), x)
    assert barrier(x).data_ptr() != x.data_ptr()


def test_a_layer_norm_has_the_form_that_is_one_kernel(tmp_path) -> None:
    path = tmp_path / "norm.tflite"
    for batch in (1, 2):
        norm = ScaledLayerNorm(1e-5, 1 / 32, centred=False)
        export_tflite(norm, {"x": torch.randn(batch, 1, 5, 64)}, path)
        ops = read_graph(path).ops
        assert [op.name for op in ops] == FUSED
        assert [op.outputs[0].shape for op in ops if op.name == "MEAN"] == [(batch, 1, 5, 1)] * 2
        (eps,) = (t for op in ops if op.name == "ADD" for t in op.inputs if t is not None and t.constant)
        assert eps.value().size == 1
