"""Zero-shot accuracy on a labelled folder, of a bundle's files beside PyTorch's tower."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pecore.dataset import Sample
from pecore.errors import InputError
from pecore.image import Layout, ValueRange, load_image, preprocess
from pecore.labels import LabelSet

TOP = 5


@dataclass(frozen=True)
class Candidate:
    """What is evaluated: `embed` maps prepared pixels `[1, ...]` in `layout` and `value_range` to an embedding
    `[dim]`."""

    name: str
    backend: str
    embed: Callable[[np.ndarray], np.ndarray]
    layout: Layout = "nchw"
    value_range: ValueRange = "-1..1"


@dataclass
class Outcome:
    """One tower on every sample: its five likeliest labels and the time of a forward pass, in order."""

    tower: Candidate
    best: list[np.ndarray] = field(default_factory=list)  # [<= 5] indices each
    seconds: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)  # with the first tower's embedding


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `outcomes` are in the order of the towers; `samples` are those that could be read."""

    samples: Sequence[Sample]
    outcomes: Sequence[Outcome]
    skipped: Sequence[tuple[Path, str]]
    preprocess_seconds: Sequence[float]

    def rows(self) -> list[dict[str, Any]]:
        """Per tower: accuracy, agreement and lowest cosine with the first tower, and milliseconds an image (median of
        the forward pass)."""
        truth = np.array([s.target for s in self.samples])
        reference = _first(self.outcomes[0])
        return [
            {
                "tower": o.tower.name,
                "backend": o.tower.backend,
                "top1": float((_first(o) == truth).mean()),
                "top5": float(np.mean([t in best for t, best in zip(truth, o.best)])),
                "agreement": float((_first(o) == reference).mean()),
                "least_cosine": min(o.cosines),
                "milliseconds": 1000 * statistics.median(o.seconds),
            }
            for o in self.outcomes
        ]


def evaluate(
    towers: Sequence[Candidate],
    samples: Sequence[Sample],
    labels: LabelSet,
    image_size: int,
    progress: Callable[[int, tuple[Path, str] | None], None] = lambda done, skipped: None,
) -> Evaluation:
    """Run every tower on every sample, each image read and prepared once. The first tower is the reference.

    Raises:
        InputError: no image could be read; one that can't be is skipped.
    """
    outcomes = [Outcome(tower) for tower in towers]
    used, skipped, preparing = [], [], []
    for done, sample in enumerate(samples, start=1):
        problem = None
        start = time.perf_counter()
        try:
            image = load_image(sample.path)
        except InputError as error:
            problem = (sample.path, str(error))
            skipped.append(problem)
        else:
            forms = dict.fromkeys((t.layout, t.value_range) for t in towers)
            pixels = {f: preprocess(image, image_size, layout=f[0], value_range=f[1]) for f in forms}
            preparing.append((time.perf_counter() - start) / len(forms))
            used.append(sample)
            _run(outcomes, pixels, labels)
        progress(done, problem)
    if not used:
        raise InputError(f"none of the {len(samples)} images could be used; the first: {skipped[0][1]}")
    return Evaluation(used, outcomes, skipped, preparing)


def _run(outcomes: Iterable[Outcome], pixels: Mapping[Any, np.ndarray], labels: LabelSet) -> None:
    reference = None
    for outcome in outcomes:
        tower = outcome.tower
        start = time.perf_counter()
        embedding = tower.embed(pixels[tower.layout, tower.value_range])
        outcome.seconds.append(time.perf_counter() - start)
        reference = embedding if reference is None else reference
        outcome.cosines.append(float(embedding @ reference))
        outcome.best.append(np.argsort(-(labels.embeddings @ embedding), kind="stable")[:TOP])


def confusion(outcome: Outcome, samples: Sequence[Sample]) -> tuple[list[int], np.ndarray]:
    """The true classes in the data set, and `[classes, classes + 1]` counts of what each was taken for; the last column
    is every other label."""
    classes = sorted({s.target for s in samples})
    column = {label: i for i, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes) + 1), np.int64)
    for sample, best in zip(samples, outcome.best):
        counts[column[sample.target], column.get(int(best[0]), len(classes))] += 1
    return classes, counts


def _first(outcome: Outcome) -> np.ndarray:
    return np.array([best[0] for best in outcome.best])
