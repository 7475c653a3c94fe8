"""Pairing and ratios, on a clock of the test's own."""

from collections.abc import Callable

import pytest

from pecore.timing import paired, ratio, spread


class Clock:
    """A clock that `take(n)` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


def test_each_runs_once_a_round_and_the_first_rounds_do_not_count() -> None:
    clock, order = Clock(), list[str]()
    runs = {name: lambda name=name: order.append(name) or clock.take(1)() for name in "ab"}
    times = paired(runs, rounds=3, warm=1, clock=clock)
    assert "".join(order) == "abbaabba"
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_a_disturbance_of_a_round_leaves_the_ratio_alone() -> None:
    clock, load = Clock(), iter([1, 1, 1, 1, 50, 50, 1, 1, 3, 3])

    def run(seconds: float) -> Callable[[], None]:
        return lambda: clock.take(seconds * next(load))()

    times = paired({"ours": run(2), "theirs": run(4)}, rounds=5, warm=0, clock=clock)
    assert ratio(times["ours"], times["theirs"]).median == 0.5
    assert spread(times["ours"]).high == 6


def test_a_spread_is_median_and_quartiles() -> None:
    assert vars(spread([5, 1, 3, 2, 4])) == {"median": 3, "low": 2, "high": 4}
    assert vars(spread([7])) == {"median": 7, "low": 7, "high": 7}
    assert str(spread([1, 2, 3])) == "2.00 (1.50 to 2.50)"


def test_nothing_has_no_spread_and_no_round_measures_nothing() -> None:
    with pytest.raises(ValueError, match="no value"):
        spread([])
    with pytest.raises(ValueError, match="0 rounds"):
        paired({}, 0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1], [])
