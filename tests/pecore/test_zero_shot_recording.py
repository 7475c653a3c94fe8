"""The recordings that other implementations replay (scripts/record_zero_shot.py)."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pecore.tokenizer import read_tokenizer

ROOT = Path(__file__).parents[2]
RECORDINGS = sorted((ROOT / "tests" / "zero_shot").iterdir())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("record_zero_shot")


@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_a_recording_is_of_one_piece(folder: Path, recorder: ModuleType) -> None:
    recording = json.loads((folder / "recording.json").read_text(encoding="utf-8"))
    dim, labels, truth = recording["dim"], recording["labels"], recording["truth"]
    prompts, images = (np.fromfile(folder / f"{name}.f32", "<f4").reshape(-1, dim) for name in ("prompts", "images"))
    replayed = recorder.Recording("", labels, prompts, images, truth, recording["logit_scale"])
    assert replayed.top1().tolist() == recording["top1"]
    assert len(prompts) == len(labels) == len(set(labels))
    assert len(images) == len(truth)
    assert recording["accuracy"] == np.mean(np.array(truth) == recording["top1"]) > 1 / len(labels)
    texts = [recording["template"].replace("{}", label) for label in labels]
    assert read_tokenizer(folder / "tokenizer.json")(texts, len(recording["ids"][0])).tolist() == recording["ids"]


def test_the_script_writes_what_is_committed(recorder: ModuleType, tmp_path: Path) -> None:
    recorder.write(tmp_path, recorder.made_up())
    for name in ("recording.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (recorder.MADE_UP / name).read_bytes(), name
    for name in ("prompts.f32", "images.f32"):
        made, stored = (np.fromfile(folder / name, "<f4") for folder in (tmp_path, recorder.MADE_UP))
        np.testing.assert_allclose(
            made, stored, rtol=0, atol=1e-5
        )  # a forward pass: the machine's own in its last bits
