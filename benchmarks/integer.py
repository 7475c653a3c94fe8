"""What becomes of a tower whose activations are integers as well, and which op is to blame.

    python -m benchmarks.integer --size T16             # needs the convert extra
    python -m benchmarks.integer --size T16 --by-op     # and each kind of op alone in int16

A Markdown table: the lowest cosine with PyTorch on LiteRT's CPU runtime, over the photographs that the ranges
were taken from and over others. Synthetic weights.

ai-edge-quantizer 0.10 stores the bias of an int16 Linear as a multiple of (input scale x weight scale), rounded in
int32: one larger than 2^31 of those steps comes out as another number, and the quantizer says no more than "invalid
value encountered in cast". The Linear that writes a tower's massive activations has such a bias. It is found here by
`overflowing` and left in float; everything else is integers.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.utils import qsv_utils

from benchmarks.section import table
from benchmarks.workspace import Workspace
from pecore.console import progress
from pecore.runtime import open_model
from pecore.validate.graph import op_counts, read_graph
from pecore.validate.parity import compare
from pecore.variants import find

CALIBRATION = 3  # photographs that the ranges are taken from; the others are held out
SIGNATURE = "serving_default"
EVERY_OP = qtyping.TFLOperationName.ALL_SUPPORTED

Ranges = dict[str, Any]
"""Tensor's name -> {"min": array, "max": array}, as ai-edge-quantizer's calibration has it."""


@dataclass(frozen=True)
class Row:
    """One way to quantize. bits: of activations; weights have 8, per channel. moving: each photograph moves a range by
    5 % (the quantizer's default) instead of widening it. ops: kinds that become integers; all where empty. spare: leave
    the Linears whose bias overflows in float."""

    name: str
    bits: int = 16
    moving: bool = False
    spare: bool = False
    ops: tuple[str, ...] = ()


ROWS = (
    Row("int16, as the quantizer does it", moving=True),
    Row("int16, ranges widened"),
    Row("int16, overflowing biases in float", moving=True, spare=True),
    Row("int16, both", spare=True),
    Row("int16, Linears alone, both", spare=True, ops=("FULLY_CONNECTED",)),
    Row("int8, as the quantizer does it", bits=8, moving=True),
    Row("int8, both", bits=8, spare=True),
    Row("int8, Linears alone, both", bits=8, spare=True, ops=("FULLY_CONNECTED",)),
)


def recipe(row: Row, spared: Sequence[str] = ()) -> list[dict]:
    """ai-edge-quantizer's recipe; the graph's inputs and outputs stay float32, and so do the ops called `spared`."""
    manager = recipe_manager.RecipeManager()
    for op in map(qtyping.TFLOperationName, row.ops or (EVERY_OP,)):
        manager.add_static_config(".*", op, row.bits, 8)
    for op in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        manager.add_quantization_config(".*", op, algorithm_key=AlgorithmName.NO_QUANTIZE)
    for name in spared:
        manager.add_quantization_config(re.escape(name), EVERY_OP, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def calibrate(source: Path, bits: int, images: Sequence[np.ndarray]) -> dict[bool, Ranges]:
    """The ranges on `images`, by whether they move or widen."""
    whole = quantizer.Quantizer(str(source), recipe(Row("", bits)))

    def run(some: Sequence[np.ndarray]) -> Ranges:
        return whole.calibrate({SIGNATURE: [{"image": image} for image in some]}, num_threads=2)

    widened: Ranges = {}
    for image in images:
        for name, seen in run([image]).items():
            widened[name] = qsv_utils.min_max_update(widened.get(name, {}), seen) if seen else seen
    return {True: run(images), False: widened}


def overflowing(source: Path, ranges: Ranges, bits: int) -> dict[str, float]:
    """Output of each Linear whose bias doesn't fit -> the bias in units of int32's largest number."""
    found = {}
    for op in read_graph(source).ops:
        if op.name != "FULLY_CONNECTED" or len(op.inputs) < 3 or op.inputs[1] is None or op.inputs[2] is None:
            continue
        weight, bias, seen = op.inputs[1].value(), op.inputs[2].value(), ranges[op.inputs[0].name]  # type: ignore[union-attr]
        steps = 2 ** (bits - 1) - 1
        largest = max(abs(float(np.min(seen["min"]))), abs(float(np.max(seen["max"]))))
        unit = largest / steps * np.abs(weight).max(axis=1) / 127
        if (share := float((np.abs(bias) / unit).max() / 2**31)) > 1:
            found[op.outputs[0].name] = share
    return found


def lowest_cosine(path: Path, images: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    model = open_model(path)
    return compare(reference, [model.run({"image": image})["embedding"] for image in images]).cosine


def measure(size: str, by_op: bool, log: Callable[[str], None]) -> str:
    """The table, as Markdown."""
    work = Workspace(find(size))
    log(f"{size}: converting to float32")
    source, images = work.file("kept"), work.images
    with torch.no_grad():
        reference = [work.reference(torch.from_numpy(image)).numpy() for image in images]
    log(f"{size}: taking ranges from {CALIBRATION} photographs")
    ranges = {bits: calibrate(source, bits, images[:CALIBRATION]) for bits in (16, 8)}
    kinds = tuple(op_counts(read_graph(source)))
    rows = []
    for row in (*ROWS, *(Row(f"{op} alone in int16", ops=(op,)) for op in kinds if by_op)):
        log(f"{size}: {row.name}")
        seen = ranges[row.bits][row.moving]
        wrong = overflowing(source, seen, row.bits)
        target = source.with_name(f"{source.stem}_{re.sub('[^a-z0-9]+', '_', row.name.lower())}.tflite")
        made = quantizer.Quantizer(str(source), recipe(row, tuple(wrong) if row.spare else ())).quantize(seen)
        made.export_model(str(target), overwrite=True)
        told = ", ".join(f"{share:.1f} x" for share in wrong.values()) or "none"
        cells = [row.name, f"{told}, in float" if wrong and row.spare else told]
        for part in (slice(CALIBRATION), slice(CALIBRATION, None)):
            cells.append(f"{lowest_cosine(target, images[part], reference[part]):.5f}")
        ops = sum(op_counts(read_graph(target)).values())
        rows.append([*cells, f"{target.stat().st_size / 1e6:.1f}", str(ops)])
        log(" | ".join(rows[-1]))
    headings = [size, "bias over int32's largest", "cosine, calibrated on", "held out", "MB", "ops"]
    return table(headings, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="T16")
    parser.add_argument("--by-op", action="store_true")
    options = parser.parse_args()
    with progress() as log:
        made = measure(options.size, options.by_op, log)
    print(made)


if __name__ == "__main__":
    main()
