"""What a new vision tower keeps of the bundle it replaces."""

import json

import pytest
from pecore.convert.parts import carry_over

from pecore import bundle
from pecore.files import sha256

SYNTHETIC = {"kind": "synthetic", "synthetic": True, "seed": 0, "source": "synthetic, seed 0", "fingerprint": None}


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "labels.txt").write_text("cat\n")
    labels = {"files": {"labels.txt": {"sha256": sha256(folder / "labels.txt")}}, "weights": SYNTHETIC}
    manifest = {"variant": {"size": "B16"}, "labels": labels, "logit_scale": 90.0, "prompt_templates": ["a {}"]}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    return folder


def new(**weights):
    return {"variant": {"size": "B16"}, "weights": SYNTHETIC | weights, "logit_scale": 100.0, "prompt_templates": []}


def test_labels_of_the_same_weights_stay(old, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    manifest = new()
    assert carry_over(old, manifest, folder) == []
    assert (folder / "labels.txt").read_text() == "cat\n"
    assert manifest["labels"]["weights"] == SYNTHETIC
    assert (manifest["logit_scale"], manifest["prompt_templates"]) == (90.0, ["a {}"])


def test_labels_of_other_weights_are_left_and_named(old, tmp_path):
    manifest = new(seed=1)
    assert carry_over(old, manifest, tmp_path) == ["labels"]
    assert "labels" not in manifest
    assert not (tmp_path / "labels.txt").exists()


def test_damaged_labels_are_left_and_named(old, tmp_path):
    (old / "labels.txt").write_text("dog\n")
    assert carry_over(old, new(), tmp_path) == ["labels"]


def test_nothing_before_nothing_kept(tmp_path):
    assert carry_over(tmp_path / "none", new(), tmp_path) == []
