"""docs/family.md against timm's own list: a new entry point is measured before it is promised."""

import json
from pathlib import Path

from benchmarks.family import eva_tables
from pecore.convert.timm_tower import eva_names

ROOT = Path(__file__).parents[2]
CONTENT = json.loads((ROOT / "pecore" / "family.json").read_text(encoding="utf-8"))


NOT_RUN: set[str] = {
    "eva02_enormous_patch14_clip_224",
    "eva_giant_patch14_clip_224",
    "vit_5b_patch16_sapiens2",
    "vit_7b_patch16_dinov3",
    "vit_giant_patch16_lingbot",
    "vit_giant_patch16_sapiens2",
    "vit_pe_core_gigantic_patch14_448",
    "vit_pe_lang_gigantic_patch14_448",
    "vit_pe_spatial_gigantic_patch14_448",
}
"""Exact, and not yet on the delegate: `python -m benchmarks.family --eva NAME` takes one out."""


def test_every_entry_point_of_timm_s_eva_class_was_measured() -> None:
    rows = CONTENT["eva"]
    assert not rows.keys() & NOT_RUN
    assert rows.keys() | NOT_RUN == set(eva_names())
    whole = CONTENT["eva whole"]
    ill = whole["eva02_tiny_patch14_224"]  # its random weights amplify rounding in float32 as well: docs/family.md
    assert ill["cpu fp32"] > 1e-4
    assert ill["gpu"][1]["correlation"] >= 0.9999999
    for row in (*rows.values(), *(row for row in whole.values() if row is not ill)):
        assert row["passed"]
        assert row["exact"] <= 1e-10
        assert row["findings"] == 0
        assert row["headroom"] >= 4
        assert [run["ops_on_gpu"] for run in row["gpu"]] == [row["ops"]] * 2
        assert min(run["correlation"] for run in row["gpu"]) >= 0.9999


def test_the_page_is_made_from_the_figures() -> None:
    page = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
    assert "\n".join(eva_tables(CONTENT)) in page
