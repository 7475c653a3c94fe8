"""The text tower on the real delegate: int8 is resident and right; a fp16 table is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from pecore.convert.pipeline import GateOptions, convert_text
from pecore.convert.text_tower import load_text, text_config
from pecore.variants import find

pytestmark = pytest.mark.gpu

T16 = find("T16")
SMALL = replace(text_config(T16), layers=2)


def test_int8_is_resident(tmp_path: Path) -> None:
    weights = load_text(T16, "synthetic", config=SMALL)
    result = convert_text(T16, weights, tmp_path / "b", GateOptions(("int8",), gpu="require"), config=SMALL)
    on_gpu = [c for c in result.checks if c.gate == "gpu"]
    assert [c.outcome for c in on_gpu] == ["passed", "passed"], [c.detail for c in on_gpu]
    assert all(c.figures["ops_on_gpu"] == c.figures["ops"] > 0 for c in on_gpu)


def test_an_fp16_table_is_refused_and_reported(tmp_path: Path) -> None:
    weights = load_text(T16, "synthetic", config=SMALL)
    result = convert_text(T16, weights, tmp_path / "b", GateOptions(("fp16",), gpu="require"), config=SMALL)
    assert not result.passed
    (on_gpu,) = [c for c in result.checks if c.gate == "gpu"]
    assert on_gpu.outcome == "failed"
    assert "EMBEDDING_LOOKUP" in on_gpu.detail
