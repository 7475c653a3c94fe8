"""Which rewrites matter on an NPU: timm's tower as it is, the published structure and ours, compiled by Qualcomm's
compiler and executed in its simulation.

    PECORE_ACCEPT_QUALCOMM_LICENCE=1 python -m benchmarks.npu --size B16 --depth 2 --pixels 112

Needs the extras convert and npu. A Markdown table: ops on the NPU, and the cosine with PyTorch on a
photograph for each amplitude of the massive activations. Synthetic weights.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.section import table
from benchmarks.workspace import FOLDER, GRAPHS, Workspace
from pecore.console import progress
from pecore.validate.npu import NpuOptions, compile_for_npu, prepare, run_on_npu
from pecore.validate.npu_verdict import Verdict
from pecore.validate.parity import compare
from pecore.variants import Variant, find

COMPARED = ("timm", "published", "ours-fp32", "ours-int8")


def measure(variant: Variant, chip: str, amplitudes: Sequence[float], log: Callable[[str], None]) -> str:
    """The table, as Markdown."""
    folder = FOLDER / f"npu_{variant.depth}_{variant.image_size}"
    works = [Workspace(variant, folder / f"{amplitude:g}", amplitude) for amplitude in amplitudes]
    rows = []
    for name in COMPARED:
        cells = [GRAPHS[name]]
        for work in works:
            log(f"{GRAPHS[name]}, amplitude {work.amplitude:g}")
            told, cosine = simulate(work, name, chip)
            cells += [told, cosine] if len(cells) == 1 else [cosine]
        rows.append(cells)
        log(" | ".join(cells))
    return table([f"{variant.size}, {variant.depth} blocks", f"on {chip}", *(f"{a:g}" for a in amplitudes)], rows)


def simulate(work: Workspace, name: str, chip: str) -> tuple[str, str]:
    """What the compiler took of a graph, and the cosine with PyTorch on a photograph."""
    image = work.images[0]
    with torch.no_grad():
        expected = work.reference(torch.from_numpy(image)).numpy()
    with tempfile.TemporaryDirectory(prefix="pecore-npu-") as made:
        target = Path(made, "out.tflite")
        build = compile_for_npu(work.file(name), chip, target)
        told = build.detail.removesuffix(f" on {chip}")
        if build.verdict is not Verdict.COMPILED:
            return told, build.verdict.value
        run = run_on_npu(target, [{"image": image}])
    found = [next(iter(arrays.values())) for arrays in run.outputs]
    return told, f"{compare([expected], found).cosine:.7f}" if found else run.detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=112)
    parser.add_argument("--chip", default="SM8850")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=[400, 8000])
    options = parser.parse_args()
    if missing := prepare(NpuOptions((options.chip,))):
        sys.exit(missing)
    variant = replace(find(options.size), depth=options.depth, image_size=options.pixels)
    with progress() as log:
        made = measure(variant, options.chip, options.amplitudes, log)
    print(made)


if __name__ == "__main__":
    main()
