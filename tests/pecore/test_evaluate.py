from dataclasses import replace

import numpy as np
import pytest

from pecore.bundle import open_bundle
from pecore.cli.evaluate import _pytorch
from pecore.confusion_figure import plot_confusion
from pecore.dataset import read_dataset
from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.evaluate import Candidate, confusion, evaluate
from pecore.labels import LabelSet

LABELS = ("cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda", "chair")


def label_set():
    return LabelSet(LABELS, np.eye(len(LABELS), dtype=np.float32), 100.0, {}, "T16")


def says(*answers):
    """A tower that gives label answers[i] for the i-th image, and the others in their order after it."""
    calls = iter(answers)

    def embed(pixels):
        assert pixels.shape == (1, 3, 16, 16)
        row = -np.arange(len(LABELS), dtype=np.float32)
        row[next(calls)] = 1
        return row / np.linalg.norm(row)

    return embed


def test_accuracy_agreement_and_confusion(dataset):
    samples = [s for s in read_dataset(dataset, LABELS).samples if s.target in (0, 2)]  # 3 rockets, then 3 cats
    towers = [
        Candidate("reference", "PyTorch", says(2, 2, 6, 0, 0, 1)),
        Candidate("other", "cpu", says(2, 6, 6, 0, 1, 1)),
    ]
    result = evaluate(towers, samples, label_set(), 16)
    reference, other = result.rows()
    assert reference["top1"] == pytest.approx(4 / 6)
    assert reference["top5"] == 1
    assert (reference["agreement"], reference["least_cosine"]) == (1, pytest.approx(1))
    assert other["top1"] == pytest.approx(2 / 6)
    assert other["agreement"] == pytest.approx(4 / 6)
    assert other["least_cosine"] < 0.99
    assert other["milliseconds"] > 0
    classes, counts = confusion(result.outcomes[1], result.samples)
    assert classes == [0, 2]
    assert counts.tolist() == [[1, 0, 2], [0, 1, 2]]


def test_top5_is_five(dataset):
    samples = [s for s in read_dataset(dataset, LABELS).samples if s.target == 4][:1]
    labels = label_set()
    assert evaluate([Candidate("t", "cpu", says(3))], samples, labels, 16).rows()[0]["top5"] == 1  # 3, 0, 1, 2, 4
    assert evaluate([Candidate("t", "cpu", says(6))], samples, labels, 16).rows()[0]["top5"] == 0  # 6, 0, 1, 2, 3


def test_unreadable_images_are_skipped(dataset, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").symlink_to(dataset / "cat" / "0.png")
    (tmp_path / "cat" / "1.png").write_bytes(b"no")
    seen = []
    samples = read_dataset(tmp_path, LABELS).samples
    result = evaluate([Candidate("t", "cpu", says(0))], samples, label_set(), 16, lambda *args: seen.append(args))
    assert [path.name for path, _ in result.skipped] == ["1.png"]
    assert result.rows()[0]["top1"] == 1
    assert [done for done, _ in seen] == [1, 2]
    with pytest.raises(InputError, match="none of the 1 images"):
        evaluate([Candidate("t", "cpu", says(0))], samples[1:], label_set(), 16)


def test_the_bundle_s_files_against_pytorch(tiny_bundle, dataset):
    bundle = open_bundle(tiny_bundle)
    encoders = [PerceptionEncoder(bundle, weights=p, threads=1) for p in ("fp16", "int8")]
    labels = encoders[0].labels
    towers = [_pytorch(bundle, None), *(Candidate(e.file.name, "cpu", e.embed_pixels) for e in encoders)]
    rows = evaluate(towers, read_dataset(dataset, labels.labels).samples, labels, 64).rows()
    assert rows[1]["agreement"] == 1
    assert rows[1]["top1"] == rows[0]["top1"]
    assert rows[1]["least_cosine"] > 0.9999
    assert 0.99 < rows[2]["least_cosine"] < rows[1]["least_cosine"]


def test_other_weights_are_no_reference(tiny_bundle, tmp_path):
    bundle = open_bundle(tiny_bundle)
    vision = replace(bundle.vision, weights=replace(bundle.vision.weights, seed=1))
    other = replace(bundle, manifest=replace(bundle.manifest, vision=vision))
    with pytest.raises(InputError, match=r"is not what .* was made from.*--no-pytorch"):
        _pytorch(other, None)
    with pytest.raises(InputError, match=r"no checkpoint .*--no-pytorch"):
        _pytorch(other, tmp_path / "gone.pt")


@pytest.mark.parametrize("count", [1, 4])
def test_plot(count, dataset, tmp_path):
    samples = read_dataset(dataset, LABELS).samples
    towers = [Candidate(f"tower {i}", "cpu", says(*[i] * 12)) for i in range(count)]
    result = evaluate(towers, samples, label_set(), 16)
    path = tmp_path / "c.png"
    plot_confusion(result, LABELS, path, "title")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match=r"give a \.png file"):
        plot_confusion(result, LABELS, tmp_path / "c.txt", "title")


def test_a_dollar_in_a_label_is_no_formula(dataset, tmp_path):
    result = evaluate([Candidate("t", "cpu", says(*[0] * 12))], read_dataset(dataset, LABELS).samples, label_set(), 16)
    labels = [rf"{label} for $\frac$" for label in LABELS]
    plot_confusion(result, labels, tmp_path / "c.png", r"$\frac$")
    assert (tmp_path / "c.png").exists()
