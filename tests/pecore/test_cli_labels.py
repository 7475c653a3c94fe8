import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pecore.cli import main
from pecore.convert.text_tower import text_config
from pecore.labels import load_label_set
from pecore.variants import find

SMALL = replace(text_config(find("T16")), layers=1, width=32, heads=1)
COMMAND = ["labels", "--size", "T16", "--weights", "synthetic", "--templates", "simple"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A text tower of one narrow block in place of T16's, and a folder of its own to run in."""
    for module in ("pecore.convert.text_tower", "pecore.convert.label_embeddings"):
        monkeypatch.setattr(f"{module}.text_config", lambda variant: SMALL)
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("cat\ndog\nCat\n")


def run(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main([*COMMAND, *args])
    return stopped.value.code


def test_labels_of_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--labels", "labels.txt", "--out", "b") == 0
    out, err = capfd.readouterr()
    assert "3 from labels.txt" in out
    assert "warning: 'Cat' is there twice" in out
    assert "Synthetic weights: these embeddings prove the format and classify nothing." in out
    assert "embedded 3 of 3 labels x 7 templates" in err
    labels = load_label_set("b")
    assert labels.labels == ("cat", "dog", "Cat")
    assert labels.embeddings.shape == (3, 512)
    assert (labels.embeddings[0] == labels.embeddings[2]).all()


def test_imagenet_into_the_default_folder_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--labels", "imagenet", "--json", "--seed", "2") == 0
    out, err = capfd.readouterr()
    made = json.loads(out)
    assert (made["n"], made["label_source"], made["template_source"]) == (1000, "imagenet", "simple")
    assert made["weights"]["seed"] == 2
    assert load_label_set(Path("out") / "pe_core_tiny_384").labels[0] == "tench"
    assert err.count("embedded") <= 10


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--labels", "nowhere.txt"], "can't read nowhere.txt"),
        (["--labels", "labels.txt", "--templates", "labels.txt"], "template 'cat' (line 1 of labels.txt) has no {}"),
        (["--labels", "labels.txt", "--size", "X1"], "unknown size 'X1'"),
        (["--labels", "labels.txt", "--checkpoint", "labels.txt"], "neither a safetensors nor a PyTorch file"),
        (["--labels", "labels.txt", "--out", "."], "not a bundle of ours"),
    ],
)
def test_what_users_get_wrong_is_one_sentence(args: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*args) == 2
    out, err = capfd.readouterr()
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir() == ["labels.txt"]


@pytest.mark.parametrize("content", ['{"0": "cat"}', "0 cat\n1 dog\n", "id,label\n0,cat\n", '"cat"\n"dog"\n'])
def test_a_file_of_another_form_is_refused_before_the_work(content: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("labels.txt").write_text(content)
    assert run("--labels", "labels.txt", "--out", "b") == 2
    out, err = capfd.readouterr()
    assert "labels.txt is not one label a line: line 1, " in err.splitlines()[-1]
    assert (out, os.listdir()) == ("", ["labels.txt"])


def test_doubts_are_said_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    Path("labels.txt").write_text("sea_lion\nch\u00e2teau\ncha\u0302teau\n")
    assert run("--labels", "labels.txt", "--out", "b", "--json") == 0
    said = json.loads(capfd.readouterr().out)["warnings"]
    assert said == json.loads(Path("b/manifest.json").read_text())["labels"]["warnings"]
    assert ["teau' is there twice" in said[0], "'sea_lion' has _" in said[1]] == [True, True]


def test_a_bundle_of_another_checkpoint(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--labels", "labels.txt", "--out", "b") == 0
    manifest = json.loads(Path("b/manifest.json").read_text())
    vision = {"kind": "timm", "source": "mine.safetensors", "synthetic": False, "seed": None, "fingerprint": "f"}
    tensor = {"name": "image", "dtype": "float32", "shape": [1]}
    section = {"weights": vision, "files": {}, "input": tensor, "outputs": [tensor]}
    section |= {key: {} for key in ("tower_output", "scales", "preprocessing", "self_test")}
    Path("b/manifest.json").write_text(json.dumps(manifest | section))
    assert run("--labels", "labels.txt", "--out", "b") == 2
    assert "from mine.safetensors, not from synthetic, seed 0" in capfd.readouterr().err
