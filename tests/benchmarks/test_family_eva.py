"""docs/family.md against timm's own list: a new entry point is measured before it is promised."""

import json
from pathlib import Path

from benchmarks.family import eva_tables
from pecore.convert.timm_tower import eva_names

ROOT = Path(__file__).parents[2]
CONTENT = json.loads((ROOT / "pecore" / "family.json").read_text(encoding="utf-8"))


TOO_WIDE = {"vit_giant_patch16_sapiens2", "vit_5b_patch16_sapiens2", "vit_7b_patch16_dinov3"}
"""Every op on the GPU, and sums of thousands of terms in fp16: docs/family.md."""


def test_every_entry_point_of_timm_s_eva_class_was_measured() -> None:
    rows = CONTENT["eva"]
    assert rows.keys() == set(eva_names())
    assert {name for name, row in rows.items() if not row["passed"]} == TOO_WIDE
    whole = CONTENT["eva whole"]
    assert all(whole[name]["depth"] == 12 for name in whole)
    for name, row in (*rows.items(), *whole.items()):
        wide = row["width"] >= 1536 and name in TOO_WIDE
        assert row["exact"] <= 1e-10
        assert row["findings"] == 0
        assert row["headroom"] >= 4
        assert row["cpu fp32"] <= 1e-5  # the weights do not amplify rounding: what fp16 loses is fp16's
        assert [run["ops_on_gpu"] for run in row["gpu"]] == [row["ops"]] * 2
        fp16, fp32 = (run["correlation"] for run in row["gpu"])
        assert fp16 >= (0.9997 if wide else 0.9999)
        assert (fp32 is None and "7b" in name) or fp32 >= 0.9999999


def test_why_the_widest_are_refused_in_fp32() -> None:
    """One Linear shows it: what is past WebGPU's 128 MiB of weights comes out as zeros."""
    for row in CONTENT["linears"]:
        fits = 4 * row["inputs"] * row["outputs"] <= 128 << 20
        assert (row["correlations"][1] is not None) == fits


def test_the_page_is_made_from_the_figures() -> None:
    page = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
    assert "\n".join(eva_tables(CONTENT)) in page
