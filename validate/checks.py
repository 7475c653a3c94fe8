"""A gate's verdict: figures beside their thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Outcome = Literal["passed", "failed", "skipped"]

AT_LEAST = frozenset({"cosine", "correlation", "headroom"})
"""Figures that must not be below their threshold; of all others it is the largest value."""


@dataclass(frozen=True)
class Check:
    """One gate's verdict on one subject.

    gate: `exact`, `graph`, `cpu`, `gpu`, `headroom`, `device` or `files`. subject: a file's name, or `tower` for what
    is checked in PyTorch. backend: what ran it, with its version. figures and thresholds: by the same names where a
    threshold applies. detail: one sentence for people.
    """

    gate: str
    subject: str
    backend: str
    outcome: Outcome
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def measured(self, figures: Mapping[str, Any], thresholds: Mapping[str, float]) -> "Check":
        """The same with these figures: failed, with the figures that missed for its detail, or as it is."""
        missed = beyond(figures, thresholds)
        outcome: Outcome = "failed" if missed else self.outcome
        detail = "; ".join(missed) if missed else self.detail
        return replace(self, outcome=outcome, detail=detail, figures=figures, thresholds=thresholds)


def beyond(figures: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[str]:
    """The figures that miss their threshold, NaN included, each as `name value (must be ...)`."""
    missed = []
    for name, limit in thresholds.items():
        value = figures[name]
        at_least = name.rpartition(".")[2] in AT_LEAST
        good = value >= limit if at_least else value <= limit
        if not good:
            missed.append(f"{name} {value:.7g} (must be {'>=' if at_least else '<='} {limit:.7g})")
    return missed


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that failed."""
    return [check for check in checks if check.outcome == "failed"]


def advisory(check: Check, made_for: str = "the CPU") -> Check:
    """A failure that is a finding and not a verdict: of the GPU on a file that is made for something else."""
    if check.outcome != "failed":
        return check
    return replace(check, outcome="skipped", detail=f"reported only, this is for {made_for}: {check.detail}")
