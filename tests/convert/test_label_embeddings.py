import json
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.zero_shot_classifier import build_zero_shot_classifier

from pecore.bundle import Origin, read_manifest
from pecore.convert import label_embeddings as module
from pecore.convert.label_embeddings import embed_labels, write_labels
from pecore.convert.label_files import read_templates
from pecore.convert.text_tower import TextWeights, build_text_tower, load_text, synthetic_text, text_config
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.errors import InputError
from pecore.variants import find

B16 = find("B16")
SMALL = replace(text_config(B16), layers=2, width=64, heads=2)


@pytest.fixture(scope="module")
def weights() -> TextWeights:
    return load_text(B16, "synthetic", seed=3, config=SMALL)


@pytest.fixture(scope="module")
def tower(weights: TextWeights) -> Any:
    return build_text_tower(SMALL, weights.state_dict)


class Clip(torch.nn.Module):
    """open_clip's `encode_text`, which its zero-shot classifier asks a model for."""

    def __init__(self, text: Any):
        super().__init__()
        self.text = text

    def encode_text(self, ids: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        return open_clip.CustomTextCLIP.encode_text(self, ids, normalize)  # type: ignore[arg-type]


def embed(tower: Any, labels: list[str], templates: list[str]) -> tuple[np.ndarray, list[str]]:
    rows: list[np.ndarray] = []
    cut = embed_labels(tower, clip_tokenizer(), labels, templates, rows.append)
    return np.concatenate(rows), cut


@pytest.mark.parametrize("templates", ["simple", "openai", "one"])
def test_equals_open_clips_zero_shot_classifier(templates: str, tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same float32 operations in other batches: 1e-5 is a hundred times what their order can change."""
    prompts = ["{}"] if templates == "one" else read_templates(templates)
    labels = [*open_clip.IMAGENET_CLASSNAMES[:8], "日本の猫", "a " * 50 + "long one"]
    expected = build_zero_shot_classifier(Clip(tower), open_clip.get_tokenizer("PE-Core-B-16"), labels, prompts)
    monkeypatch.setattr(module, "WINDOW", 3 * len(prompts))  # windows that do not divide the labels
    monkeypatch.setattr(module, "BATCH", 16)
    rows, cut = embed(tower, labels, prompts)
    assert rows.dtype == np.float32
    assert rows.shape == (10, 1024)
    np.testing.assert_allclose(rows, expected.T.numpy(), atol=1e-5, rtol=0)
    assert np.abs(rows - rows[0]).max(1)[1:].min() > 1e-3  # labels differ: the comparison means something
    assert cut == labels[-1:]


def test_a_label_of_exactly_the_context_is_not_cut(tower: Any) -> None:
    fits, too_long = " ".join(["cat"] * 30), " ".join(["cat"] * 31)
    assert embed(tower, [fits, too_long], ["{}"])[1] == [too_long]


def test_memory_does_not_grow_with_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of Python's own allocations (prompts, token lists, numpy rows) for 200 and for 800 prompts of 2 kB, which
    are far more than a window's."""
    config = replace(SMALL, layers=1, width=16, heads=1)
    tower, tokenize = build_text_tower(config, synthetic_text(config, 0)), clip_tokenizer()
    monkeypatch.setattr(
        tokenize.__class__, "__call__", lambda self, texts, context: np.full((len(texts), context), self.end)
    )
    monkeypatch.setattr(tokenize.__class__, "count", lambda self, text: 3)
    monkeypatch.setattr(module, "WINDOW", 20)

    def peak(labels: int) -> int:
        names = [f"{i}" for i in range(labels)]
        tracemalloc.start()
        embed_labels(tower, tokenize, names, ["x" * 2000 + "{}"] * 10, lambda rows: None)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)  # what is allocated once
    assert peak(80) < 1.5 * peak(20)


# What is written


def test_files_and_manifest(weights: TextWeights, tower: Any, tmp_path: Path) -> None:
    labels = ["cat", "日本の猫", "Cat", "word " * 40 + "end"]
    said: list[str] = []
    entry = write_labels(
        tmp_path / "b", B16, weights, labels, ["a {}.", "{}"], said.append, names=("l.txt", "t.txt"), config=SMALL
    )
    data = (tmp_path / "b" / "text_embeddings.bin").read_bytes()
    assert np.frombuffer(data[:8], "<i4").tolist() == [4, 1024]
    rows = np.frombuffer(data[8:], "<f4").reshape(4, 1024)
    # Of another tower with the same weights, whose kernels may add in another order.
    np.testing.assert_allclose(rows, embed(tower, labels, ["a {}.", "{}"])[0], atol=1e-6, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert (tmp_path / "b" / "labels.txt").read_text(encoding="utf-8") == "".join(f"{label}\n" for label in labels)

    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert read_manifest(tmp_path / "b").labels == entry
    assert (manifest["format"], manifest["variant"]) == (1, asdict(B16))
    assert manifest["logit_scale"] == entry.logit_scale == 100
    assert entry.templates == manifest["prompt_templates"] == ["a {}.", "{}"]
    assert (entry.n, entry.dim, entry.context_length) == (4, 1024, 32)
    assert entry.weights.synthetic is True
    assert "synthetic" in entry.weights.source
    assert len(entry.warnings) == 2
    assert "'Cat'" in entry.warnings[0]
    assert "more than 32 tokens" in entry.warnings[1]
    assert any("4 of 4 labels" in line for line in said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]  # nothing is left beside it


def vision_manifest(folder: Path, size: str = "B16", **changes: Any) -> dict[str, Any]:
    about = asdict(Origin("synthetic", "synthetic, seed 3", synthetic=True, seed=3, fingerprint="f"))
    manifest = {
        "format": 1,
        "name": "n",
        "variant": asdict(find(size)),
        "weights": about | changes,
        "files": {"a.tflite": {"bytes": 4, "sha256": "0"}},
        "input": {"name": "image", "dtype": "float32", "shape": [1, 3, 224, 224]},
        "outputs": [{"name": "embedding", "dtype": "float32", "shape": [1, 1024]}],
        **{key: {} for key in ("tower_output", "scales", "preprocessing", "self_test")},
        "logit_scale": None,
    }
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "a.tflite").write_bytes(b"kept")
    return manifest


def test_into_a_bundle_and_again(weights: TextWeights, tmp_path: Path) -> None:
    before = vision_manifest(tmp_path / "b")
    for labels in (["cat", "dog"], ["cat", "dog", "bird"]):
        write_labels(tmp_path / "b", B16, weights, labels, ["{}"], config=SMALL)
        manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
        assert manifest["labels"]["n"] == len(labels)
        assert {k: manifest[k] for k in before if k != "logit_scale"} == {
            k: v for k, v in before.items() if k != "logit_scale"
        }
        assert manifest["logit_scale"] == 100
        assert (tmp_path / "b" / "a.tflite").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 4, "source": "synthetic, seed 4"}, "from synthetic, seed 4, not from synthetic, seed 3"),
        ({"synthetic": False, "kind": "hub", "source": "timm/x@1"}, "from timm/x@1"),
        ({"size": "L14"}, "of L14, not of B16"),
    ],
)
def test_another_checkpoint_is_refused(changes: Any, said: str, weights: TextWeights, tmp_path: Path) -> None:
    vision_manifest(tmp_path / "b", **changes)
    before = (tmp_path / "b" / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=said):
        write_labels(tmp_path / "b", B16, weights, ["cat"], ["{}"], config=SMALL)
    assert (tmp_path / "b" / "manifest.json").read_bytes() == before
    assert not (tmp_path / "b" / "labels.txt").exists()


def test_labels_of_another_checkpoint_replace_labels_alone(weights: TextWeights, tmp_path: Path) -> None:
    write_labels(tmp_path / "b", B16, weights, ["cat"], ["{}"], config=SMALL)
    other = load_text(B16, "synthetic", seed=9, config=SMALL)
    assert write_labels(tmp_path / "b", B16, other, ["cat"], ["{}"], config=SMALL).weights.seed == 9


def test_a_folder_of_something_else_is_refused(weights: TextWeights, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not a bundle of ours"):
        write_labels(tmp_path, B16, weights, ["cat"], ["{}"], config=SMALL)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a manifest of ours"):
        write_labels(tmp_path, B16, weights, ["cat"], ["{}"], config=SMALL)
