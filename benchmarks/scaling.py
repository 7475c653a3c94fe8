"""Cost against image size, batch and variant, with the exponent that fits beside the arithmetic one.

    python -m benchmarks.scaling --size B16 --depth 4

Image size and batch are measured on the first blocks of one variant, the variants at full depth; fp32 on XNNPACK,
paired. Times are held against the first point of a row; the exponent is the slope of log(time) over log(x), the
arithmetic one that of log(MACs).
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import results
from benchmarks.conversion import whole_file
from benchmarks.workspace import FOLDER
from pecore.console import working
from pecore.convert.export import export_tflite
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites.tower import rewrite
from pecore.runtime import open_model
from pecore.timing import paired, ratio, spread
from pecore.validate.rules import graph_facts as facts
from pecore.variants import Variant, find

SIDES = (112, 160, 224, 320, 448)
BATCHES = (1, 2, 4, 8)
SIZES = ("T16", "S16", "B16", "L14")


@dataclass(frozen=True)
class Point:
    """One graph of a row: where it stands on the row's axis, and its file."""

    label: str
    x: float
    path: Path


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """p of the y = a * x^p that fits best: least squares on the logarithms.

    Raises:
        ValueError: fewer than two different x, or a value that is not positive.
    """
    if len(set(xs)) < 2 or min(*xs, *ys) <= 0:
        raise ValueError(f"no exponent fits {list(xs)} and {list(ys)}")
    return float(np.polyfit([math.log(x) for x in xs], [math.log(y) for y in ys], 1)[0])


def tower_file(variant: Variant, batch: int = 1) -> Path:
    """Ours in fp32, for images of the variant's size, at the default scales."""
    path = FOLDER / "scaling" / f"{variant.artefact}_{variant.depth}_{variant.image_size}_{batch}.tflite"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        image = torch.zeros(batch, 3, variant.image_size, variant.image_size)
        made = path.with_suffix(".part")
        export_tflite(rewrite(build_tower(variant, synthetic_state_dict(variant))), {"image": image}, made)
        made.rename(path)
    return path


def measure(points: Sequence[Point], threads: int, rounds: int) -> dict[str, Any]:
    """Paired times over the first point's, and both exponents."""
    runs: dict[str, Callable[[], object]] = {}
    for point in points:
        model = open_model(point.path, threads=threads)
        image = np.random.default_rng(0).uniform(-1, 1, model.inputs["image"].shape).astype(np.float32)
        runs[point.label] = partial(model.run, {"image": image})
    times = paired(runs, rounds)
    first = times[points[0].label]
    rows = [
        {
            "label": point.label,
            "x": point.x,
            "macs": facts(point.path)["macs"],
            "ms": vars(spread([1000 * t for t in times[point.label]])),
            "ratio": vars(ratio(times[point.label], first)),
        }
        for point in points
    ]
    xs, medians = [row["x"] for row in rows], [row["ratio"]["median"] for row in rows]
    return {
        "points": rows,
        "fitted": exponent(xs, medians),
        "arithmetic": exponent(xs, [row["macs"] for row in rows]),
    }


def run(size: str, depth: int, sizes: Sequence[str], threads: int, rounds: int) -> None:
    shallow = replace(find(size), depth=depth)
    sides = [side - side % shallow.patch for side in SIDES]
    content: dict[str, Any] = {"size": size, "depth": depth, "threads": threads, "rounds": rounds}
    with working() as stage:
        stage(f"{size}, {depth} blocks: image sizes")
        variants = [replace(shallow, image_size=side) for side in sides]
        content["image"] = measure(
            [Point(str(v.image_size), v.image_size, tower_file(v)) for v in variants], threads, rounds
        )
        stage(f"{size}, {depth} blocks: batches")
        content["batch"] = measure([Point(str(b), b, tower_file(shallow, b)) for b in BATCHES], threads, rounds)
        points = []
        for name in sizes:
            stage(f"{name}: whole tower")
            path = whole_file(name) if whole_file(name).exists() else tower_file(find(name))
            points.append(Point(name, facts(path)["macs"] / 1e9, path))
        content["variant"] = measure(points, threads, rounds)
    results.write("scaling", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    run(options.size, options.depth, options.sizes, options.threads, options.rounds)


if __name__ == "__main__":
    main()
