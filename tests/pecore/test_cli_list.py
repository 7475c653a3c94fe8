import json

import pytest

from pecore.cli import main
from pecore.variants import VARIANTS


def run(capfd, *args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert not stop.value.code
    return capfd.readouterr().out


def test_every_variant_with_its_gates(capfd):
    rows = json.loads(run(capfd, "list", "--json"))["variants"]
    assert [row["variant"] for row in rows] == [v.name for v in VARIANTS]
    for row in rows:
        first = row["first_blocks"]
        assert first["passed"], row["variant"]
        assert first["exact"] <= 1e-10
        assert first["findings"] == 0
        fp16 = first["gpu"][0]
        assert fp16["correlation"] >= 0.9999
        assert fp16["ops_on_gpu"] == fp16["ops"]


def test_the_table(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = run(capfd, "list")
    assert all(variant.name in out for variant in VARIANTS)
    assert "[1, 768, 32, 32]" in out  # spatial-b16's map


def test_every_tower_of_timm_s_eva_class(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    towers = json.loads(run(capfd, "list", "--all", "--json"))["towers"]
    passed = sum(tower["two_blocks"]["passed"] for tower in towers)
    assert len(towers) == 65
    whole = {tower["timm"]: tower["whole"] for tower in towers if tower["whole"]}
    assert whole["vit_small_patch16_dinov3_qkvb"]["passed"]
    out = run(capfd, "list", "--all")
    assert f"{passed} of 65 pass every gate" in out
    assert all(tower["timm"] in out for tower in towers)
