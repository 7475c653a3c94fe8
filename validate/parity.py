"""How far two outputs are apart, in figures that are not blind to each other's failures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parity:
    """Figures of outputs against a reference, the worst over the inputs given.

    cosine, correlation (Pearson): lowest; both are blind to scale. norm_error: largest | ||actual|| / ||reference|| - 1
    |. max_abs_diff: largest |actual - reference| of any element. relative_diff: the same over the reference's largest
    |element|, for outputs that are no unit vectors. NaN or inf anywhere in the actual output makes every figure NaN.
    """

    cosine: float
    correlation: float
    norm_error: float
    max_abs_diff: float
    relative_diff: float

    def as_dict(self) -> dict[str, float]:
        return dict(vars(self))


def compare(reference: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> Parity:
    """Compare outputs with their references, pairwise, in float64.

    Raises:
        ValueError: the two lists, or two arrays of a pair, differ in size, or there is nothing to compare.
    """
    if not reference or len(reference) != len(actual):
        raise ValueError(
            f"{len(reference)} references and {len(actual)} outputs: one of each is needed for every input"
        )
    return worst([_figures(r, a) for r, a in zip(reference, actual)])


def worst(figures: Sequence[Parity]) -> Parity:
    """The worst of each figure; NaN if any is NaN."""
    columns = np.array([list(vars(f).values()) for f in figures])
    return Parity(*(float(v) for v in (*columns[:, :2].min(0), *columns[:, 2:].max(0))))


def _figures(reference: np.ndarray, actual: np.ndarray) -> Parity:
    if reference.size != actual.size or not reference.size:
        raise ValueError(
            f"an output of shape {actual.shape} can't be compared with a reference of shape {reference.shape}"
        )
    r, a = reference.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    if not np.isfinite(a).all():
        return Parity(*[float("nan")] * 5)
    largest = float(abs(a - r).max())
    return Parity(
        _cosine(r, a),
        _cosine(r - r.mean(), a - a.mean()),
        abs(float(np.linalg.norm(a) / np.linalg.norm(r)) - 1),
        largest,
        largest / float(abs(r).max()) if r.any() else float("nan"),
    )


def _cosine(r: np.ndarray, a: np.ndarray) -> float:
    return float(r @ a / (np.linalg.norm(r) * np.linalg.norm(a))) if r.any() and a.any() else float("nan")
