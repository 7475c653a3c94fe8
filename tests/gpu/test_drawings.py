"""The trained tower's accuracy on the real delegate: on drawings what its file says on the CPU.

A software driver takes half a second for one, so every fourth is taken; `python -m benchmarks.drawings` measures all.
"""

from pathlib import Path

import pytest

from pecore.dataset import read_dataset
from pecore.encoder import PerceptionEncoder
from pecore.evaluate import Candidate, evaluate

pytestmark = pytest.mark.gpu

DRAWINGS = Path(__file__).parents[1] / "drawings" / "images"


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_same_labels_as_on_the_cpu(drawings_bundle: Path, weights: str) -> None:
    encoders = [PerceptionEncoder(drawings_bundle, weights=weights, backend=backend) for backend in ("cpu", "gpu")]
    labels = encoders[0].labels
    samples = read_dataset(DRAWINGS, labels.labels).samples[::4]
    towers = [Candidate(e.file.name, e.backend, e.embed_pixels) for e in encoders]
    cpu, gpu = evaluate(towers, samples, labels, encoders[0].image_size).rows()
    assert len(samples) == 50
    assert gpu["agreement"] >= 0.98  # one picture: a near tie may fall the other way in fp16
    assert abs(gpu["top1"] - cpu["top1"]) <= 0.02
    assert gpu["least_cosine"] > 0.999
