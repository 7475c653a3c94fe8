"""The exported graph: how many ops, of what form, under which names, and the same bytes every time."""

import weakref
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites.tower import Tower, rewrite
from pecore.runtime import open_model
from pecore.validate.graph import max_rank, op_counts, read_graph
from pecore.validate.rules import check, runtimes

# Per graph, and per block of it: fp16 adds the DEQUANTIZE of each weight matrix and table.
STEM_AND_TAIL = {"fp32": 47, "fp16": 54, "int8": 47}
PER_BLOCK = {"fp32": 37, "fp16": 41, "int8": 37}
BLOCK = {
    "MUL": 6,  # two norms: 2 each; RoPE: 2
    "ADD": 5,  # two norms' eps, two residuals, RoPE
    "FULLY_CONNECTED": 5,  # qkv, RoPE's swap, proj, fc1, fc2
    "SLICE": 4,  # q and k, v; q; k
    "TRANSPOSE": 3,
    "MEAN": 4,  # two norms: mean and variance
    "SUB": 2,
    "RSQRT": 2,
    "BATCH_MATMUL": 2,
    "RESHAPE": 2,
    "SOFTMAX": 1,
    "GELU": 1,
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_op_count_of_a_full_depth_tower(converted, precision) -> None:
    counts = op_counts(read_graph(converted.files[precision, False]))
    depth = converted.variant.depth
    assert depth == 12  # B16's and S16's too
    assert sum(counts.values()) == STEM_AND_TAIL[precision] + depth * PER_BLOCK[precision]
    assert sum(counts.values()) == {"fp32": 491, "fp16": 546, "int8": 491}[precision]
    assert counts["BATCH_MATMUL"] == 2 * depth + 1
    if precision == "fp16":
        assert counts["DEQUANTIZE"] == 55


def test_op_count_does_not_depend_on_the_size(small, converted, tmp_path) -> None:
    variant = small("B16")
    model = build_tower(variant, synthetic_state_dict(variant))
    image = torch.zeros(1, 3, variant.image_size, variant.image_size)
    export_tflite(rewrite(model), {"image": image}, tmp_path / "b16.tflite")
    quantize(tmp_path / "b16.tflite", tmp_path / "b16_fp16.tflite", "fp16")
    counts = op_counts(read_graph(tmp_path / "b16_fp16.tflite"))
    assert sum(counts.values()) == 136 == 54 + 2 * 41
    deep = op_counts(read_graph(converted.files["fp16", False]))
    extra = converted.variant.depth - variant.depth
    assert deep - counts == Counter({name: extra * n for name, n in (BLOCK | {"DEQUANTIZE": 4}).items()})


def test_kept_norm_weights_cost_a_product_for_each_norm(converted) -> None:
    kept, folded = (op_counts(read_graph(converted.files["fp32", k])) for k in (True, False))
    assert kept - folded == Counter({"MUL": 2 * converted.variant.depth + 2})


@pytest.mark.parametrize("kept", [False, True], ids=["folded", "norm weights kept"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_rule_of_any_runtime_is_broken(converted, precision, kept) -> None:
    graph = read_graph(converted.files[precision, kept])
    assert max_rank(graph) == 4
    assert graph.subgraphs == 1
    for runtime in runtimes():
        findings = check(graph, runtime)
        if precision == "int8":  # the pool's rank-3 Linears, on Mali in 2.1.3 and 2.1.5; a note for later versions
            findings = [f for f in findings if not f.rule.startswith("linear-int8-add")]
        assert findings == []


def test_every_product_is_rank_4_without_adj(converted) -> None:
    graph = read_graph(converted.files["fp16", False])
    products = [op for op in graph.ops if op.name == "BATCH_MATMUL"]
    assert len(products) == 2 * converted.variant.depth + 1
    for op in products:
        assert [len(tensor.shape) for tensor in (*op.inputs, *op.outputs) if tensor] == [4, 4, 4]
        assert not op.options["adj_x"]
        assert not op.options["adj_y"]
        assert not any(tensor.constant for tensor in op.inputs if tensor)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_signature(converted, precision) -> None:
    (signature,) = read_graph(converted.files[precision, False]).signatures
    assert signature.key == "serving_default"
    side = converted.variant.image_size
    (name, image), (out, embedding) = *signature.inputs.items(), *signature.outputs.items()
    assert (name, image.shape, image.dtype) == ("image", (1, 3, side, side), "float32")
    assert (out, embedding.shape, embedding.dtype) == ("embedding", (1, converted.variant.embedding_dim), "float32")


def test_lightweight_conversion_changes_memory_and_not_the_graph(converted, tmp_path) -> None:
    """Nor what it computes. (Two runs give the same file: tests/convert/test_pipeline.py.)"""
    heavy = tmp_path / "heavy.tflite"
    tower = rewrite(converted.model, converted.scales)
    export_tflite(tower, {"image": converted.image}, heavy, lightweight=False)
    light = converted.files["fp32", False]
    assert op_counts(read_graph(heavy)) == op_counts(read_graph(light))
    outputs = [open_model(path, threads=1).run(converted.inputs[0])["embedding"] for path in (heavy, light)]
    # Float32 on both sides, of a vector of length 1; constants lie elsewhere in the two files, and kernels may notice.
    np.testing.assert_allclose(*outputs, atol=1e-6, rtol=0)


class _Two(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left + right, left * right


def test_tensors_are_named_without_the_package_they_come_from(converted) -> None:
    """The file's bytes hold these names, and the rewrites keep theirs wherever they are installed: as `rewrites` once,
    as `pecore.rewrites` now. `export._short_type_names` sees to it."""
    graph = read_graph(converted.files["fp32", False])
    names = {tensor.name for op in graph.ops for tensor in (*op.inputs, *op.outputs) if tensor}
    made = {name for name in names if "_Named" in name}
    assert len(made) > 100
    assert {name.split("/")[0] for name in made} == {"convert.export._Named"}
    assert {name.split("/")[1] for name in made} == {"rewrites.tower.Tower_module"}
    assert not [name for name in names if "pecore" in name]
    assert Tower.__module__ == "pecore.rewrites.tower"  # as it was before the export


def test_the_module_is_let_go(converted, tmp_path) -> None:
    """What quantizing a large one has room for."""
    tower = rewrite(converted.model)
    held = [weakref.ref(p) for p in tower.parameters()]
    export_tflite(tower, {"image": converted.image}, tmp_path / "x.tflite")
    del tower
    assert held
    assert not any(p() is not None for p in held)


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "two.tflite"
    inputs = {"left": torch.ones(1, 4), "right": torch.ones(1, 4)}
    export_tflite(_Two(), inputs, path, outputs=("total", "product"))
    out = open_model(path).run({"left": np.full((1, 4), 3, np.float32), "right": np.full((1, 4), 5, np.float32)})
    assert {name: float(array[0, 0]) for name, array in out.items()} == {"total": 8, "product": 15}
    with pytest.raises(ValueError, match="argument"):  # three names for two outputs
        export_tflite(_Two(), inputs, path, outputs=("a", "b", "c"))


def test_blocks_differ_in_nothing_but_their_weights(converted) -> None:
    """The list above, from the graph itself: what lies between two blocks' scores."""
    names = [op.name for op in read_graph(converted.files["fp32", False]).ops]
    softmaxes = [i for i, name in enumerate(names) if name == "SOFTMAX"][:-1]  # the last is the pool's
    spans = [Counter(names[a:b]) for a, b in pairwise(softmaxes)]
    assert spans == [Counter(BLOCK)] * (converted.variant.depth - 1)
