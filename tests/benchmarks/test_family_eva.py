"""docs/family.md against timm's own list: a new entry point is measured before it is promised."""

import json
from pathlib import Path

from benchmarks.family import eva_tables
from pecore.convert.timm_tower import eva_names

ROOT = Path(__file__).parents[2]
CONTENT = json.loads((ROOT / "pecore" / "family.json").read_text(encoding="utf-8"))


def test_every_entry_point_of_timm_s_eva_class_was_measured() -> None:
    rows = CONTENT["eva"]
    assert sorted(rows) == sorted(eva_names())  # python -m benchmarks.family --eva NAME
    for row in (*rows.values(), *CONTENT["eva whole"].values()):
        assert row["passed"]
        assert row["exact"] <= 1e-10
        assert row["findings"] == 0
        assert row["headroom"] >= 4
        assert [run["ops_on_gpu"] for run in row["gpu"]] == [row["ops"]] * 2
        assert min(run["correlation"] for run in row["gpu"]) >= 0.9999


def test_the_page_is_made_from_the_figures() -> None:
    page = (ROOT / "docs" / "family.md").read_text(encoding="utf-8")
    assert "\n".join(eva_tables(CONTENT)) in page
