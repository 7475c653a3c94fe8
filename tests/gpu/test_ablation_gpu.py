"""What the rewrites are for, on the real delegate: a tower of three blocks, with one of them taken out at a time."""

import dataclasses

import pytest
import torch

from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tflite_files import write_fp16
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.validate.ablation import RIGHT, Point, ablate, choose_rows, passed
from pecore.validate.ablation_variants import ROWS, AblationRow
from pecore.validate.gpu import Verdict
from pecore.validate.photographs import photographs
from pecore.variants import find

pytestmark = pytest.mark.gpu

# Massive activations come with the second block: the third one's LayerNorms see them.
VARIANT = dataclasses.replace(find("T16"), depth=3, image_size=64)
LOUD = 32.0


def build(amplitude: float):
    return build_tower(VARIANT, synthetic_state_dict(VARIANT, 0, amplitude))


def build_with_a_loud_head(amplitude: float):
    """An embedding whose sum of squares is past fp16's maximum."""
    model = build(amplitude)
    with torch.no_grad():
        model.head.weight *= LOUD
        model.head.bias *= LOUD
    return model


def run(amplitude: float, rows: list[AblationRow], build=build) -> dict[str, Point]:
    images = [torch.from_numpy(preprocess(image, VARIANT.image_size)) for _, image in photographs()]
    results = ablate(build, write_fp16, images, [amplitude], rows, log=lambda name: None)
    return {r.row.name: r.points[0] for r in results}


@pytest.fixture(scope="module")
def loud() -> dict[str, Point]:
    return run(20000.0, choose_rows(["norm-published", "matmul-pool", "l2", "timm"]))


@pytest.fixture(scope="module")
def usual() -> dict[str, Point]:
    return run(400.0, choose_rows(["norm", "norm-published"]))


def is_right(point: Point) -> bool:
    return point.run.verdict is Verdict.RAN and point.gpu.correlation >= RIGHT


def test_with_all_rewrites_every_op_is_accepted_and_right(loud, usual):
    for points in (loud, usual):
        whole = points["none"]
        assert whole.run.ops_on_gpu == whole.ops
        assert is_right(whole)
        assert whole.gpu.norm_error < 2e-3
        assert not whole.collapsed


def test_timms_tower_is_refused_for_its_fifth_axis(loud):
    refused = loud["timm"].run
    assert refused.verdict is Verdict.REFUSED
    assert refused.ops_on_gpu < refused.ops / 2
    rank = {r.op for r in refused.refused if "dimensions must be less than 5" in r.reason}
    assert "RESHAPE" in rank
    assert loud["timm"].gpu is None


def test_l2_normalization_is_refused(loud):
    assert [r.op for r in loud["l2"].run.refused] == ["L2_NORMALIZATION"]


def test_plain_layer_norm_loses_the_image_where_ours_keeps_it(usual):
    plain = usual["norm"]
    assert plain.run.verdict is Verdict.RAN, "every op is accepted: nothing but the numbers tells"
    assert not plain.gpu.correlation > 0.9  # NaN included


def test_published_layer_norm_holds_at_400_and_not_at_20000(usual, loud):
    assert is_right(usual["norm-published"])
    assert loud["norm-published"].run.verdict is Verdict.RAN
    assert not loud["norm-published"].gpu.correlation > 0.9


def test_rank_2_product_in_the_pool_is_accepted_and_wrong(loud):
    assert loud["matmul-pool"].run.verdict is Verdict.RAN
    assert not loud["matmul-pool"].gpu.correlation > 0.9
    assert loud["matmul-pool"].cpu.correlation > 0.9999, "the file itself is good"


def test_l2_norm_without_a_scale_overflows():
    unscaled = AblationRow("unscaled", "", ROWS[0].swap, lambda scales: dataclasses.replace(scales, head=1.0))
    points = run(400.0, [ROWS[0], unscaled], build_with_a_loud_head)
    assert is_right(points["none"])
    assert not is_right(points["unscaled"])


def test_verdict_of_the_command(loud):
    row = {"verdict": "ran", "findings": [], "points": [loud["none"].as_dict()]}
    assert passed([row])
    assert not passed([row | {"points": [loud["norm-published"].as_dict()]}])
