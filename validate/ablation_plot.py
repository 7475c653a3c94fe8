"""The ablation's figure: correlation over amplitude for the towers that the delegate accepts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pecore.figures import new_figure, save_figure

SHOWN: Mapping[str, tuple[str, str, str, int]] = {
    # row of the ablation: (label, matplotlib's colour, marker, size: the later one is drawn over the earlier)
    "none": ("scaled LayerNorm (all rewrites)", "tab:blue", "o", 13),
    "norm-published": ("x/32, variance rebuilt", "tab:orange", "s", 9),
    "norm": ("F.layer_norm", "tab:red", "v", 5),
}


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the LayerNorm rows of `content` (as `ablation.json` has it) to `path`, a PNG."""
    figure = new_figure(7.5, 4.4)
    axes = figure.add_subplot()
    rows = {row["name"]: row for row in content["rows"]}
    for name, (label, colour, marker, size) in SHOWN.items():
        if name not in rows:
            continue
        points = [p for p in rows[name]["points"] if "correlation" in p]
        good = [p for p in points if p["correlation"] is not None]
        x, y = [p["amplitude"] for p in good], [p["correlation"] for p in good]
        axes.plot(x, y, ":", color=colour, lw=1)
        for p in good:
            face = "white" if p["collapsed"] else colour
            axes.plot(p["amplitude"], p["correlation"], marker, color=colour, ms=size, mfc=face)
        axes.plot([], [], marker, color=colour, ms=size, label=label)
        for p in points:
            if p["correlation"] is None:
                axes.plot(p["amplitude"], 0, "x", color=colour, ms=10, mew=2.5, clip_on=False)
                axes.annotate("NaN", (p["amplitude"], 0.04), color=colour, ha="center")
    axes.plot([], [], "o", color="grey", mfc="white", label="open: the same embedding whatever the photograph")
    axes.set_xscale("log")
    axes.set_xticks(content["amplitudes"], [f"{a:g}" for a in content["amplitudes"]], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.3)
    axes.set_xlabel("largest activation in the residual stream")
    axes.set_ylabel("correlation with the CPU")
    adapter = content["adapter"]["name"] if content["adapter"] else "no adapter"
    axes.set_title(
        f"LayerNorm on ML Drift in fp16: {content['variant']}, {content['depth']} of {content['of']} blocks,\n"
        f"{content['weights']}, on {adapter}",
        fontsize=10,
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9, frameon=False)
    save_figure(figure, path, dpi=130)
