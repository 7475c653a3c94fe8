"""A confusion matrix for each tower, side by side."""

from collections.abc import Sequence
from pathlib import Path

from pecore.evaluate import Evaluation, confusion
from pecore.figures import new_figure, save_figure

NAMED = 40
"""Classes up to which each is named on the axes, and each count is written into its cell up to half of them."""

COLUMNS = 3


def plot_confusion(evaluation: Evaluation, labels: Sequence[str], path: Path, title: str) -> None:
    """Write a picture: rows are true labels, columns what they were taken for, as a share of the row.

    Raises:
        InputError: `path` can't be written, or its ending is no picture's.
    """
    count = len(evaluation.outcomes)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = new_figure(1 + 5 * columns, 0.8 + 5 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, outcome, row in zip(panels, evaluation.outcomes, evaluation.rows()):
        classes, counts = confusion(outcome, evaluation.samples)
        if not counts[:, -1].any():
            counts = counts[:, :-1]
        shares = counts / counts.sum(axis=1, keepdims=True)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        name = outcome.tower.name + ("" if outcome.tower.backend == "PyTorch" else f", {outcome.tower.backend}")
        axes.set_title(f"{name}: top-1 {100 * row['top1']:.1f} %", fontsize=9)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        if len(classes) <= NAMED:
            names = [labels[i] for i in classes]
            axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
            columns_named = [*names, "other"][: counts.shape[1]]
            axes.set_xticks(range(len(columns_named)), columns_named, rotation=90, fontsize=7, parse_math=False)
        if len(classes) <= NAMED // 2:
            for y, x in zip(*counts.nonzero()):
                colour = "white" if shares[y, x] > 0.6 else "black"
                axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=7, color=colour)
    for axes in panels[count:]:
        axes.remove()
    figure.colorbar(image, ax=list(panels[:count]), label="share of the true label's images", shrink=0.6)
    save_figure(figure, path)
