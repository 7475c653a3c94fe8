"""Matplotlib figures as PNG files whose bytes depend on what is drawn alone. Needs the `convert` extra."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pecore.errors import InputError


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, width and height in inches. A `$` in the title is a dollar, and a file's name need not be
    UTF-8."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(readable(title), fontsize=10, x=0.01, ha="left", parse_math=False)
    return figure


def plain_axes(axes: Any) -> None:
    """No frame at the top and right, faint lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure. Raises InputError where `path` can't be written or its ending is no picture's."""
    try:
        figure.savefig(path, dpi=dpi, metadata={"Software": None} if path.suffix == ".png" else None)
    except (OSError, ValueError) as error:
        raise InputError(f"the plot can't be written to {path} ({error}); give a .png file") from error


def readable(text: str) -> str:
    """`text` for Matplotlib, which takes no file's name that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
