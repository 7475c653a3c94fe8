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


ALL_LEGEND = (
    "two blocks: exact to timm in float64, graph, CPU, ML Drift in fp16 and fp32; of embedding and features the lower",
    "correlation. Synthetic weights; docs/family.md has more. `pecore convert --timm-model NAME` converts one.",
)


def list_variants(
    every: Annotated[
        bool, typer.Option("--all", help="Every tower of timm's Eva class: DINOv3, EUPE, EVA-02, rope_mixed, ...")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """The variants that convert, and which gates have been run on them (docs/family.md)."""
    from pecore.variants import VARIANTS

    measured = json.loads(files("pecore").joinpath("family.json").read_text(encoding="utf-8"))
    if every:
        show_every(measured, as_json)
        return
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


def show_every(measured: Any, as_json: bool) -> None:
    """The towers of timm's Eva class, by timm's names."""
    found, whole_towers = measured.get("eva", {}), measured.get("eva whole", {})
    if as_json:
        show_json(
            {"towers": [{"timm": n, "two_blocks": row, "whole": whole_towers.get(n)} for n, row in found.items()]}
        )
        return
    rows = [
        (name, str(row["width"]), str(row["ops"]), *correlations(row), *correlations(whole_towers.get(name))[:1])
        for name, row in sorted(found.items())
    ]
    columns = ("tower", ">width", ">ops", "two blocks, fp16", "two blocks, fp32", "whole, fp16")
    right = sum(row["passed"] for row in found.values())
    show(table(f"timm's Eva class: {right} of {len(found)} pass every gate", columns, rows), *ALL_LEGEND)


def correlations(row: Any) -> list[str]:
    """Of a measured tower in fp16 and fp32 on ML Drift."""
    runs = row["gpu"] if row else []
    return [f"{run['correlation']:.6f}" if run.get("correlation") else "not run" for run in [*runs, {}, {}][:2]]


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
