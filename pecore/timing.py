"""Paired timing: what is compared runs in turn, so that whatever else the machine does falls on all of it alike.

    times = paired({"ours": ours, "theirs": theirs}, rounds=15)
    ratio(times["ours"], times["theirs"]).median

A time by itself says more about the machine than about what ran; a ratio of two times of one round says little about
the machine.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WARM = 2
"""Rounds before those that count: they fill caches and settle lazy initialisation."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    warm: int = WARM,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run each of `runs` once a round, in turn; the seconds of each in every round after the first `warm`.

    Every other round goes backwards, so that no one always follows the same neighbour.

    Raises:
        ValueError: no round would count.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds measure nothing")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(warm + rounds):
        for name in list(runs)[:: -1 if index % 2 else 1]:
            start = clock()
            runs[name]()
            took = clock() - start
            if index >= warm:
                times[name].append(took)
    return times


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, each interpolated between the values around it; of one value, that value.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("no value has no median")
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(median, low, high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """`ours` over `theirs`, round by round; below 1 ours took less."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
