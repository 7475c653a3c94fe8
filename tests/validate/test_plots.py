"""The plots are the same bytes for the same figures, on which nothing but the figures has an influence."""

import math
import struct
from pathlib import Path

import pytest

from pecore.rewrites.tower import Scales
from pecore.validate.graph import Op, Tensor
from pecore.validate.headroom import Reduction
from pecore.validate.localize import Error, Localization, Step, StepErrors
from pecore.validate.plots import plot_headroom, plot_localization


def chunks(png: bytes) -> list[bytes]:
    """The types of a PNG file's chunks."""
    found, at = [], 8
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        found.append(png[at + 4 : at + 8])
        at += 12 + length
    return found


def reductions(amplitude: float) -> list[Reduction]:
    names = ["stem.norm_pre", "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "norm", "pool.norm"]
    norms = [Reduction(n, "layernorm", 1.0, amplitude**2 * i, 0.1, amplitude) for i, n in enumerate(names, 1)]
    linear = Reduction("blocks.0.attn.qkv", "linear", 1.0, 5.0, math.nan, 5.0)
    return [*norms, linear, Reduction("head.normalize", "l2", 1.0, 30.0, math.nan, 2.0)]


def localization(lost: int, with_reference: bool) -> Localization:
    columns = {"cpu": "LiteRT CPU against PyTorch"} if with_reference else {}
    columns["gpu"] = "ML Drift fp16 against LiteRT CPU"
    rows = []
    for i in range(5):
        tensor = Tensor(i, f"t{i}", (1, 4), (1, 4), "float32", False, 0, 0, Path("m.tflite"), None)
        step = Step(Op(i, "ADD", "builtin", (), (tensor,), {}), f"Block {i}", "residual", (str(i),), True)
        errors = {"gpu": Error(lost * (i > 2), *([math.nan] * 3 if lost and i > 2 else [0.9999, 0.01, 0.02]))}
        rows.append(StepErrors(step, 3.0, errors | ({"cpu": Error(0, 1.0, 1e-7, 0.0)} if with_reference and i else {})))
    return Localization(columns, 0.05, rows, [], {c: rows[3] if c == "gpu" and lost else None for c in columns})


def test_headroom_plot(tmp_path):
    def draw(amplitude: float, name: str) -> bytes:
        path = tmp_path / name
        plot_headroom(reductions(amplitude), Scales(), path, "T16, SYNTHETIC weights")
        return path.read_bytes()

    once = draw(400.0, "a.png")
    assert once == draw(400.0, "b.png")
    assert once != draw(4000.0, "c.png")
    assert {b"tIME", b"tEXt", b"iTXt"}.isdisjoint(chunks(once)), "a version or a time is in the file"


@pytest.mark.parametrize("with_reference", [True, False])
def test_localization_plot(tmp_path, with_reference):
    def draw(lost: int, name: str) -> bytes:
        plot_localization(localization(lost, with_reference), tmp_path / name, "a title")
        return (tmp_path / name).read_bytes()

    sound = draw(0, "a.png")
    assert sound == draw(0, "b.png")
    assert sound != draw(9, "c.png")
    assert {b"tIME", b"tEXt", b"iTXt"}.isdisjoint(chunks(sound))
