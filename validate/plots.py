"""Plots over depth, as PNG files whose bytes depend on the figures alone."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pecore.figures import new_figure, plain_axes, save_figure
from pecore.rewrites.tower import Scales
from pecore.validate.headroom import ENOUGH, FP16_MAX, Reduction, rescaled
from pecore.validate.localize import Localization

BLUE, GREEN, RED, GREY = "#1f6fb4", "#2a9134", "#c62828", "#767676"
COLOURS = (GREEN, BLUE, "#b8860b", "#7b3fa0")
SMALLEST = 1e-12  # 1 - correlation is 0, or less by rounding, where two tensors agree


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
        ("sum of squares as formed, scales included", [r.largest for r in norms], BLUE, "-"),
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
    save_figure(figure, path)


def plot_localization(found: Localization, path: Path, title: str) -> None:
    """Write each part's error over depth, a line for each column, the first wrong part marked; below, 1 - correlation,
    to show what that figure alone does not see."""
    figure, (top, bottom) = _panels(2, title, len(found.parts), (3, 2))
    top.set_yscale("log")
    bottom.set_yscale("log")
    sizes = {c: [row.errors[c].size if c in row.errors else math.nan for row in found.parts] for c in found.columns}
    ceiling = 3 * max([1.0, found.threshold, *(s for column in sizes.values() for s in column if s < math.inf)])
    marked = set()
    for (column, what), colour in zip(found.columns.items(), COLOURS):
        top.plot([min(s, ceiling) for s in sizes[column]], marker=".", color=colour, label=what)
        lost = [i for i, size in enumerate(sizes[column]) if size == math.inf]
        top.plot(lost, [ceiling] * len(lost), "x", color=colour, label="inf or NaN" if lost else None)
        blind = [1 - row.errors[column].correlation if column in row.errors else math.nan for row in found.parts]
        bottom.plot([max(b, SMALLEST) for b in blind], marker=".", color=colour)
        first = found.first[column]
        where = first and (first.step.part, first.step.name)
        if where and where not in marked:
            marked.add(where)
            place = next(i for i, row in enumerate(found.parts) if row.step.part == where[0])
            top.axvline(place, color=colour, linewidth=1, linestyle=":")
            top.annotate(
                f" {': '.join(where)}", (place, 0.02), xycoords=("data", "axes fraction"), color=colour, fontsize=8
            )
    _label_line(top, found.threshold, f"threshold {found.threshold:g}")
    top.set_ylabel("error (relative or channel, the larger)")
    top.legend(fontsize=8, loc="best", framealpha=0.9)
    bottom.set_ylabel("1 - correlation")
    _name_places(bottom, [row.step.part for row in found.parts])
    save_figure(figure, path)


def _panels(count: int, title: str, places: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    figure = new_figure(min(16.0, max(7.0, 0.28 * places + 2)), 2.2 + 2.4 * count, title)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        plain_axes(axes)
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
