"""What ML Drift launches for one inference: ours, the published structure, timm's tower as far as the delegate takes
it, and ours with one rewrite taken out.

    python -m benchmarks.kernels

Two depths of each tower are counted (`benchmarks/dispatches.py`), and a line through them gives the whole tower: every
block launches the same. Needs a Vulkan driver, a software one will do, a C compiler and Vulkan's headers.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import results
from benchmarks.dispatches import build_layer, count
from benchmarks.section import Section
from benchmarks.workspace import FOLDER, GRAPHS, Workspace
from pecore.console import progress
from pecore.errors import InputError
from pecore.validate.ablation_variants import ROWS, AblationRow
from pecore.validate.gpu import NO_ADAPTER_REMEDY, probe
from pecore.validate.graph import read_graph
from pecore.variants import Variant, find

COMPARED = ("ours-fp16", "ours-int8", "published-fp16", "timm")
DEPTHS = (1, 2)
COUNTED = ("ops", "kernels", "barriers")
"""What grows by the same with each block. Memory comes in heaps of megabytes and does not."""
ABLATED = "T16"
ABLATED_SIDE = 96
"""Pixels; what one rewrite is worth in kernels does not depend on the number of tokens, and small images are quick."""

Counts = Mapping[str, Any]
"""ops, kernels and barriers of a whole tower, memory of the deeper of `DEPTHS`; `whole`: every op is on the GPU."""


def whole_tower(points: Sequence[Counts], depth: int) -> dict[str, Any]:
    """Counts at `DEPTHS` blocks -> those of `depth` blocks, the kernels of one block, and memory as it was."""
    (first, second), (low, high) = points, DEPTHS
    slopes = {key: (second[key] - first[key]) / (high - low) for key in COUNTED}
    found = {key: round(first[key] + slope * (depth - low)) for key, slope in slopes.items()}
    rest = {"memory": second["memory"], "whole": first["whole"] and second["whole"]}
    return {**found, "kernels_per_block": slopes["kernels"], **rest}


def counted(path: Path) -> Counts:
    return {"ops": len(read_graph(path).ops), **vars(count(path))}


def works(variant: Variant) -> list[Workspace]:
    """The tower's first blocks, as many as each of `DEPTHS`."""
    return [Workspace(replace(variant, depth=n), FOLDER / f"kernels_{variant.image_size}_{n}") for n in DEPTHS]


def graphs(variant: Variant, log: Callable[[str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each of `COMPARED` that the delegate takes something of."""
    depths = works(variant)
    for name in COMPARED:
        log(f"{variant.size}: {GRAPHS[name]}")
        yield name, whole_tower([counted(work.file(name)) for work in depths], variant.depth)


def ablation(
    variant: Variant, rows: Sequence[AblationRow], log: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's tower in fp16."""
    depths = works(variant)
    with TemporaryDirectory(prefix="pecore-kernels-") as folder:
        path = Path(folder, "tower.tflite")
        for row in rows:
            log(f"{variant.size}: {row.out}")
            points = []
            for work in depths:
                work.write_without(row, path)
                points.append(counted(path))
            yield row.name, whole_tower(points, variant.depth)


def run(sizes: Sequence[str]) -> None:
    build_layer()
    adapter = probe()
    if adapter is None:
        raise InputError(f"no Vulkan adapter that ML Drift accepts; {NO_ADAPTER_REMEDY}")
    content: dict[str, Any] = {"adapter": adapter.name, "sizes": {size: {} for size in sizes}, "ablation": {}}
    with progress() as log:
        for name, found in ablation(replace(find(ABLATED), image_size=ABLATED_SIDE), ROWS, log):
            content["ablation"][name] = found
            results.write("kernels", content)
        for size in sizes:
            for name, found in graphs(find(size), log):
                content["sizes"][size][name] = found
                results.write("kernels", content)


def kernels(contents: results.Contents) -> Section:
    """One row a graph, one group of columns a size."""
    content = contents["kernels"]
    sizes = content["sizes"]
    headings = [
        "graph",
        *(f"{size}: {what}" for size in sizes for what in ("ops", "kernels", "a block", "barriers", "MB")),
    ]
    named = [name for name in COMPARED if all(name in found for found in sizes.values())]
    rows = [[_label(name, sizes), *(cell for size in sizes for cell in _cells(sizes[size][name]))] for name in named]
    note = (
        f"ML Drift of LiteRT {content['environment']['versions']['ai-edge-litert']} in fp16 on {content['adapter']}. "
        f"MB: device memory after a run of {DEPTHS[1]} blocks, weights and activations."
    )
    partly = "* The delegate refuses some ops; counted is what it takes of the graph, and the rest runs on the CPU."
    return Section(headings, rows, [note, partly])


def _label(name: str, sizes: Mapping[str, Any]) -> str:
    whole = all(found[name]["whole"] for found in sizes.values())
    return GRAPHS[name] if whole else f"{GRAPHS[name]} *"


def _cells(found: Counts) -> list[str]:
    megabytes = f"{found['memory'] / 1e6:.0f}" if found["whole"] else ""
    return [*_counts(found), str(found["barriers"]), megabytes]


def _counts(found: Counts) -> list[str]:
    return [str(found["ops"]), str(found["kernels"]), f"{found['kernels_per_block']:g}"]


def kernels_ablation(contents: results.Contents) -> Section:
    """What one rewrite is worth in kernels."""
    content = contents["kernels"]
    labels = {row.name: row.out for row in ROWS}
    rows = [
        [labels[name] + ("" if found["whole"] else " *"), *_counts(found)]
        for name, found in content["ablation"].items()
    ]
    note = "* Refused in part, as above."
    return Section([f"taken out of {ABLATED} at {ABLATED_SIDE} px", "ops", "kernels", "a block"], rows, [note])


SECTIONS = {"kernels": kernels, "kernels_ablation": kernels_ablation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["T16", "B16"])
    options = parser.parse_args()
    try:
        run(options.sizes)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
