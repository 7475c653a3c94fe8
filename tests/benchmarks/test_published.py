"""The rebuilt published structure: timm's function, in the forms that are said of it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.published import PublishedTower
from pecore.convert.export import export_tflite
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.validate.graph import op_counts, read_graph
from pecore.validate.rules import check


@pytest.mark.parametrize("size", ["T16", "B16", "G14"])
def test_it_computes_what_timm_computes(size: str, small: Callable[..., Any], shots: list[Any]) -> None:
    variant = small(size)
    model = build_tower(variant, synthetic_state_dict(variant), dtype=torch.float64)
    image = torch.from_numpy(preprocess(shots[0], variant.image_size)).double()
    with torch.no_grad():
        ours, theirs = PublishedTower(model, torch.float64)(image), F.normalize(model(image), dim=-1)
    assert float((ours - theirs).abs().max()) < 1e-12  # another order of the same sums


def test_its_graph_has_the_forms_it_is_known_for(small: Callable[..., Any], tmp_path) -> None:
    variant = small("T16")
    tower = PublishedTower(build_tower(variant, synthetic_state_dict(variant)))
    image = torch.zeros(1, 3, variant.image_size, variant.image_size)
    export_tflite(tower, {"image": image}, tmp_path / "published.tflite")
    graph = read_graph(tmp_path / "published.tflite")
    products = [op for op in graph.ops if op.name == "BATCH_MATMUL"]
    assert {len(op.outputs[0].shape) for op in products} == {3}
    assert len(products) == 2 * variant.depth
    linears = 6 * variant.depth + 6  # q, k, v, proj, fc1, fc2; the pool's k, v, proj, fc1, fc2 and the head
    assert op_counts(graph)["FULLY_CONNECTED"] == linears
    assert Counter(f.rule for f in check(graph))["matmul-rank-3"] == len(products)
    assert not [f for f in check(graph) if f.verdict == "refused"]
