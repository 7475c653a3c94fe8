"""Plots over depth, as PNG files whose bytes depend on the figures alone."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rewrites.tower import Scales
from validate.headroom import ENOUGH, FP16_MAX, Reduction, rescaled
from validate.localize import Localization, Row

BLUE, GREEN, RED, GREY = "#1f6fb4", "#2a9134", "#c62828", "#767676"
COLOURS = (GREEN, BLUE, "#b8860b", "#7b3fa0")


def plot_headroom(reductions: Sequence[Reduction], scales: Scales, path: Path, title: str) -> None:
    """Write the norms' sums of squares over depth, against what fp16 holds, with `scales` and without.

    Args:
        reductions: as `headroom.measure` gives them, under any scales.
        title: says which tower, which weights (synthetic ones are to be called so) and what it was measured on.
    """
    norms = [r for r in rescaled(reductions, scales) if r.kind in ("layernorm", "l2")]
    places = range(len(norms))
    figure, (top, bottom) = _panels(2, title, len(norms), (3, 2))
    _label_line(top, FP16_MAX, "65504, fp16's maximum")
    for label, values, colour, line in (
        ("largest |x|", [r.peak for r in norms], GREY, ":"),
        ("sum of squares, unscaled (plain LayerNorm)", [r.unscaled for r in norms], RED, "--"),
        (f"sum of squares as formed (stream x {_power(scales.stream)})", [r.largest for r in norms], BLUE, "-"),
    ):
        top.plot(places, values, marker=".", label=label, color=colour, linestyle=line)
    top.set_yscale("log")
    top.set_ylabel("|x|, sum of squares")
    top.legend(fontsize=8, loc="best", framealpha=0.9)
    headroom = [math.log2(r.headroom) for r in norms]
    bottom.bar(places, headroom, color=[BLUE if r.headroom >= ENOUGH else RED for r in norms], width=0.7)
    _label_line(bottom, math.log2(ENOUGH), f"{ENOUGH:g}x is asked for")
    bottom.set_ylabel("headroom, powers of two")
    _name_places(bottom, [r.name.removeprefix("blocks.") for r in norms])
    _save(figure, path)


def plot_localization(found: Localization, path: Path, title: str) -> None:
    """Write the error of each part over depth, one line for each column, with the first wrong part marked."""
    figure, (axes,) = _panels(1, title, len(found.parts), (1,))
    axes.set_yscale("log")
    sizes = {c: [_size(row, c) for row in found.parts] for c in found.columns}
    finite = [s for column in sizes.values() for s in column if 0 < s < math.inf]
    ceiling = 3 * max([1.0, found.threshold, *finite])
    for (column, what), colour in zip(found.columns.items(), COLOURS):
        known = [(i, s) for i, s in enumerate(sizes[column]) if not math.isnan(s)]
        drawn = [min(s, ceiling) for _, s in known]
        axes.plot([i for i, _ in known], drawn, marker=".", color=colour, label=what)
        lost = [i for i, s in known if s == math.inf]
        axes.plot(lost, [ceiling] * len(lost), "x", color=colour, label="inf or NaN" if lost else None)
        first = found.first[column]
        if first is not None:
            place = next(i for i, row in enumerate(found.parts) if row.step.part == first.step.part)
            axes.axvline(place, color=colour, linewidth=1, linestyle=":")
            where = f" {first.step.part}: {first.step.name}"
            axes.annotate(where, (place, 0.02), xycoords=("data", "axes fraction"), color=colour, fontsize=8)
    _label_line(axes, found.threshold, f"threshold {found.threshold:g}")
    axes.set_ylabel("error (the larger of relative and channel)")
    axes.legend(fontsize=8, loc="best", framealpha=0.9)
    _name_places(axes, [row.step.part for row in found.parts])
    _save(figure, path)


def _size(row: Row, column: str) -> float:
    return row.errors[column].size if column in row.errors else math.nan


def _power(scale: float) -> str:
    return f"1/{1 / scale:g}" if scale < 1 else f"{scale:g}"


def _panels(count: int, title: str, places: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(min(16.0, max(7.0, 0.28 * places + 2)), 2.2 + 2.4 * count), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    return figure, list(panels)


def _label_line(axes: Axes, height: float, text: str) -> None:
    """A limit across the panel, named at its right end, clear of the marks."""
    axes.axhline(height, color=RED, linewidth=1)
    axes.annotate(
        text, (1, height), (4, 0), ("axes fraction", "data"), "offset points", color=RED, fontsize=8, va="center"
    )


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    every = -(-len(names) // 60)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=7)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
