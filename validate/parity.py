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
    Where a figure is not defined it is NaN too: see `has_direction`.
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


def has_direction(reference: np.ndarray, tolerance: float, smallest: float = 0.0) -> bool:
    """Whether cosine, correlation and norm mean anything: more than one element, some above `smallest`, and elements
    that differ by more than `tolerance` of the largest, which is all rounding can tell apart."""
    r = reference.astype(np.float64).ravel()
    largest = float(np.abs(r).max(initial=0.0))
    return r.size > 1 and not largest <= smallest and not float(np.ptp(r)) <= tolerance * largest


def joint_relative_diff(reference: Sequence[np.ndarray], actual: Sequence[np.ndarray], smallest: float = 0.0) -> float:
    """The largest |actual - reference| of all pairs over the largest |element| of all references, or as it is where
    none is above `smallest`. NaN where an element is not finite."""
    r, a = (np.concatenate([x.astype(np.float64).ravel() for x in arrays]) for arrays in (reference, actual))
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(a - r).max())
    scale = float(np.abs(r).max())
    return largest if scale <= smallest else largest / scale


def worst(figures: Sequence[Parity]) -> Parity:
    """The worst of each figure; NaN if any is NaN."""
    columns = np.array([list(vars(f).values()) for f in figures], np.float64)
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
        abs(float(np.linalg.norm(a) / np.linalg.norm(r)) - 1) if r.any() else float("nan"),
        largest,
        largest / float(abs(r).max()) if r.any() else float("nan"),
    )


def _cosine(r: np.ndarray, a: np.ndarray) -> float:
    return float(r @ a / (np.linalg.norm(r) * np.linalg.norm(a))) if r.any() and a.any() else float("nan")
