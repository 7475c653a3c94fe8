"""What becomes of a tower whose activations are integers as well, and which op is to blame.

    python -m benchmarks.integer --size T16             # synthetic weights; needs the convert extra
    python -m benchmarks.integer --size drawings-T16    # the trained tower of this package
    python -m benchmarks.integer --size T16 --by-op 8   # and each kind of op alone in int8

A Markdown table: the lowest cosine with PyTorch on LiteRT's CPU runtime, over the photographs that the ranges were
taken from, over others, and over drawings of tests/drawings. From what ai-edge-quantizer does by itself to what
`--precision a16w8` is (pecore.convert.quantize), one remedy after the other.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from benchmarks.results import ROOT
from benchmarks.section import table
from benchmarks.workspace import Workspace
from pecore.console import progress
from pecore.convert.quantize import HEADROOM, NORMS
from pecore.convert.ranges import SIGNATURE, Ranges, calibrate, fit_biases, overflowing, with_headroom
from pecore.image import preprocess
from pecore.image_files import find_images
from pecore.runtime import open_model
from pecore.validate.graph import Graph, op_counts, read_graph
from pecore.validate.parity import compare
from pecore.variants import find

CALIBRATION = 3  # photographs that the ranges are taken from; the others are held out
DRAWINGS = 5
EVERY_OP = qtyping.TFLOperationName.ALL_SUPPORTED


@dataclass(frozen=True)
class Row:
    """One way to quantize. bits: of activations; weights have 8, per channel. moving: each photograph moves a range by
    5 % (the quantizer's default) instead of widening it. fitted: ranges in which every bias fits. headroom: how much
    wider than seen. floats: expressions for the tensors of ops that are left in float. ops: kinds that become integers;
    all where empty."""

    name: str
    bits: int = 16
    moving: bool = False
    fitted: bool = True
    headroom: float = 1.0
    floats: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


ROWS = (
    Row("int16, as the quantizer does it", moving=True, fitted=False),
    Row("int16, ranges widened", fitted=False),
    Row("int16, and every bias fits"),
    Row("int16, and headroom 2", headroom=2.0),
    Row("int16, and headroom 4", headroom=HEADROOM),
    Row("int16, headroom 4, norms in float: `a16w8`", headroom=HEADROOM, floats=(NORMS,)),
    Row("int8, as the quantizer does it", bits=8, moving=True, fitted=False),
    Row("int8, ranges widened", bits=8),
    Row("int8, norms in float", bits=8, floats=(NORMS,)),
    Row("int8, Linears alone", bits=8, ops=("FULLY_CONNECTED",)),
    Row("int8, Linears but fc2 alone", bits=8, ops=("FULLY_CONNECTED",), floats=(".*Linear_fc2.*",)),
)


def recipe(row: Row) -> list[dict]:
    """ai-edge-quantizer's recipe; the graph's inputs and outputs stay float32."""
    manager = recipe_manager.RecipeManager()
    for op in map(qtyping.TFLOperationName, row.ops or (EVERY_OP,)):
        manager.add_static_config(".*", op, row.bits, 8)
    for op in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        manager.add_quantization_config(".*", op, algorithm_key=AlgorithmName.NO_QUANTIZE)
    for names in row.floats:
        manager.add_quantization_config(names, EVERY_OP, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def both_ranges(source: Path, bits: int, images: Sequence[np.ndarray]) -> dict[bool, Ranges]:
    """The ranges on `images`, by whether they move or widen."""
    whole = quantizer.Quantizer(str(source), recipe(Row("", bits)))
    samples = [{"image": image} for image in images]
    return {True: whole.calibrate({SIGNATURE: samples}), False: calibrate(whole, samples)}


def ranges_of(row: Row, graph: Graph, seen: dict[bool, Ranges]) -> Ranges:
    ranges = with_headroom(seen[row.moving], row.headroom)
    return fit_biases(graph, ranges) if row.fitted and row.bits == 16 else ranges


def lowest_cosine(path: Path, images: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    model = open_model(path)
    return compare(reference, [model.run({"image": image})["embedding"] for image in images]).cosine


def measure(size: str, by_op: int | None, log: Callable[[str], None]) -> str:
    """The table, as Markdown; `by_op`: bits of the rows with one kind of op alone."""
    work = Workspace(find(size))
    log(f"{size}: converting to float32")
    source = work.file("kept")
    drawings = find_images([ROOT / "tests" / "drawings" / "images"])
    images = [*work.images, *(preprocess(p, work.variant.image_size) for p in drawings[:: len(drawings) // DRAWINGS])]
    with torch.no_grad():
        reference = [work.reference(torch.from_numpy(image)).numpy() for image in images]
    parts = (slice(CALIBRATION), slice(CALIBRATION, len(work.images)), slice(len(work.images), None))
    log(f"{size}: taking ranges from {CALIBRATION} photographs")
    graph, ranges = read_graph(source), {bits: both_ranges(source, bits, images[:CALIBRATION]) for bits in (16, 8)}
    kinds = op_counts(graph) if by_op else ()
    rows = []
    for row in (*ROWS, *(Row(f"int{by_op}, {op} alone", bits=by_op or 8, ops=(op,)) for op in kinds)):
        log(f"{size}: {row.name}")
        chosen = ranges_of(row, graph, ranges[row.bits])
        target = source.with_name(f"{source.stem}_{re.sub('[^a-z0-9]+', '_', row.name.lower())}.tflite")
        quantizer.Quantizer(str(source), recipe(row)).quantize(chosen).export_model(str(target), overwrite=True)
        cosines = [f"{lowest_cosine(target, images[part], reference[part]):.5f}" for part in parts]
        told = ", ".join(f"{share:.1f} x" for share in overflowing(graph, chosen, row.bits).values()) or "none"
        ops = sum(op_counts(read_graph(target)).values())
        rows.append([row.name, told, *cosines, f"{target.stat().st_size / 1e6:.1f}", str(ops)])
        log(" | ".join(rows[-1]))
    headings = [size, "bias over int32's largest", "cosine, calibrated on", "held out", "drawings", "MB", "ops"]
    return table(headings, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="T16")
    parser.add_argument("--by-op", type=int, choices=(8, 16))
    options = parser.parse_args()
    with progress() as log:
        made = measure(options.size, options.by_op, log)
    print(made)


if __name__ == "__main__":
    main()
