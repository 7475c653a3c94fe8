"""A table of docs/benchmarks.md or README.md, and how its figures are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Sequence[str]


@dataclass(frozen=True)
class Section:
    """What a topic puts on a page: a table, and under it a paragraph for each note. No headings: notes alone."""

    headings: Row = ()
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        return "\n\n".join([table(self.headings, self.rows)] * bool(self.headings) + list(self.notes))


def table(headings: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; all columns but the first are right-aligned.

    Raises:
        ValueError: a row is longer or shorter than the headings.
    """
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"{len(headings)} columns, but a row has {len(row)}: {row}")
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def transposed(columns: Sequence[Row], names: int = 1) -> tuple[Row, list[Row]]:
    """Headings and rows, without rows that have nothing but their names: what the first `names` columns hold."""
    headings, *rows = zip(*columns, strict=True)
    return headings, [row for row in rows if any(row[names:])]


def quartiles(spread: Mapping[str, float], digits: int = 2) -> str:
    """Median, and the quartiles in brackets."""
    median, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def nines(value: float | None) -> str:
    """A cosine or correlation with as many digits as tell it from 1, at most nine; None as NaN."""
    if value is None:
        return "NaN"
    for digits in range(4, 10):
        if f"{value:.{digits}f}" != f"{1:.{digits}f}":
            return f"{value:.{digits}f}"
    return "1.000000000"


def counted(counts: Mapping[str, int]) -> str:
    """`rank (198), matmul-rank-3 (26)`; `none` where there is nothing."""
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"
