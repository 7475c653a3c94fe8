"""pecore list"""

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pecore.console import show, show_json, table
from pecore.precision import PRECISIONS

if TYPE_CHECKING:
    from pecore.variants import Variant

EXAMPLE = "pecore list --json"

SIZED = ("fp16", "int8")
"""Precisions whose megabytes are shown."""

LEGEND = (
    "first blocks: so many went through the exact, graph, CPU and GPU gates; the fp16 file's correlation on ML Drift.",
    "whole: cosine of each file on the CPU with PyTorch. All with synthetic weights; docs/family.md has more.",
    "MB of what was not converted whole: by its parameters. `pecore convert --variant NAME` converts one.",
)


def list_variants(as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False) -> None:
    """The variants that convert, and which gates have been run on them (docs/family.md)."""
    from pecore.variants import VARIANTS

    measured = json.loads(files("pecore").joinpath("family.json").read_text(encoding="utf-8"))
    facts = [about(v, measured["rows"].get(v.name), measured.get("whole", {}).get(v.name)) for v in VARIANTS]
    if as_json:
        show_json({"variants": facts})
        return
    rows = [
        (
            fact["variant"],
            f"{fact['parameters'] / 1e6:,.1f} M",
            str(fact["pixels"]),
            f"{fact['output']} {fact['shape']}",
            *(f"{fact['megabytes'][p]:,.0f}" for p in SIZED),
            blocks(fact["first_blocks"]),
            whole(fact["whole"]),
        )
        for fact in facts
    ]
    columns = ("variant", ">parameters", "pixels", "gives", ">fp16, MB", ">int8, MB", "first blocks", "whole")
    show(table("Perception Encoder vision towers", columns, rows), *LEGEND)


def about(variant: "Variant", row: Any, converted: Any) -> dict[str, Any]:
    """What is known of a variant, as JSON has it."""
    made = converted["files"] if converted else {}
    return {
        "variant": variant.name,
        "timm": variant.timm_name,
        "parameters": variant.parameters,
        "pixels": variant.image_size,
        "output": variant.output,
        "shape": variant.output_shape,
        "megabytes": {
            p: (made[p]["bytes"] if p in made else variant.parameters * PRECISIONS[p].bytes_per_weight) / 1e6
            for p in SIZED
        },
        "first_blocks": row,
        "whole": converted,
    }


def blocks(row: Any) -> str:
    """The gates run on a variant's first blocks, in short."""
    if not row:
        return "not run"
    on_gpu = row["gpu"][0] if row["gpu"] else {}
    if on_gpu.get("correlation") is None:
        return f"{row['depth']}: exact, graph, CPU"
    return f"{row['depth']}: all, {on_gpu['correlation']:.6f}"


def whole(row: Any) -> str:
    """The CPU gate on a whole tower, in short."""
    return ", ".join(f"{p} {f['cosine']:.6f}" for p, f in row["files"].items()) if row else ""
