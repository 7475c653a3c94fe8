"""pecore headroom"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pecore.cli.options import Amplitude, Ema, ImageSize, Seed, Verbose, weights_source, writes
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.rewrites.tower import Scales
    from pecore.validate.headroom import Reduction
    from pecore.validate.subnormal import Subnormals

EXAMPLE = "pecore headroom --size B16 --weights synthetic --save headroom.png"


def headroom(
    size: Annotated[str | None, typer.Option(help="T16, S16, B16, L14, G14 or drawings-T16.")] = None,
    variant_name: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Or any of the family: core-b16, spatial-b16.")
    ] = None,
    timm_model: Annotated[
        str | None, typer.Option(help="A timm model's name instead, with its weights from the hub or --checkpoint.")
    ] = None,
    weights: Annotated[str, typer.Option(help="hub, or synthetic: seeded, needs no network.")] = "hub",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A local file, or folder of shards, instead: whatever `pecore convert` takes.")
    ] = None,
    ema: Ema = True,
    image_size: ImageSize = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photographs to measure on, instead of the built-in ones.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(callback=writes(".png"), help="Write the plot over depth to this .png.")
    ] = None,
    synthetic_amplitude: Amplitude = 400.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Measure how far a tower's sums are from what fp16 holds, and the scales that follow (exit code 1 if they don't
    suffice)."""
    if sum(name is not None for name in (size, variant_name, timm_model)) != 1:
        raise InputError("give one of --size and --timm-model (or --variant), as in pecore headroom --size B16")
    with progress(verbose) as log:
        log("loading weights")
        from pecore.cli.convert import choose_variant
        from pecore.convert.checkpoint import load
        from pecore.convert.timm_tower import preprocessing
        from pecore.convert.towers import build_tower
        from pecore.rewrites.tower import rewrite
        from pecore.validate import headroom as reductions_of
        from pecore.validate.photographs import photographs, tower_inputs
        from pecore.validate.plots import plot_headroom
        from pecore.validate.subnormal import subnormal_weights

        variant = choose_variant(size, variant_name, timm_model, checkpoint, image_size)
        source = weights_source(weights, checkpoint)
        loaded = load(variant, source, seed=seed, amplitude=synthetic_amplitude, ema=ema, log=log)
        model: Any = build_tower(variant, loaded.state_dict)
        taken = f" ({loaded.taken})" if loaded.taken else ""
        title = f"{variant.artefact}, {'SYNTHETIC weights: ' * loaded.synthetic}{loaded.source}{taken}"
        photos = (image for _, image in photographs(images))
        inputs = tower_inputs(photos, variant.image_size, preprocessing(variant))
        log(f"measuring {len(inputs)} photographs")
        scales, reductions = reductions_of.fit_scales(model, inputs)
        by_default = reductions_of.min_headroom(reductions_of.rescaled(reductions, replace(scales, gains={})))
        subnormals = subnormal_weights(rewrite(model, scales))
        title += f"; {len(inputs)} photographs"
    tightest = reductions_of.min_headroom(reductions)
    enough = tightest.headroom >= reductions_of.ENOUGH
    if as_json:
        show_json(
            {
                "tower": title,
                "scales": asdict(scales),
                "least": tightest.as_dict(),
                "least_without_gains": by_default.as_dict(),
                "enough": enough,
                "reductions": [r.as_dict() for r in reductions],
                "fp16_weights": [s.as_dict() for s in subnormals],
            }
        )
    else:
        show(
            parts_table(reductions, title),
            f"Scales: stream {Fraction(scales.stream)}, stem {Fraction(scales.stem)}, pool {Fraction(scales.pool)}, "
            f"head {Fraction(scales.head)}; gains: {_gains(scales)}.",
            subnormal_line(subnormals),
            _verdict(by_default, tightest, scales, reductions_of.ENOUGH),
        )
    if save:
        with progress(verbose) as log:
            log("drawing")
            plot_headroom(reductions, scales, save, title)
    raise typer.Exit(0 if enough else 1)


def parts_table(reductions: Sequence["Reduction"], title: str) -> Table:
    """One row for the stem, each block, the final norm, the pool and the head: the tightest norm, the tightest
    product."""
    parts: dict[str, list[Reduction]] = {}
    for r in reductions:
        parts.setdefault(".".join(r.name.split(".")[: 2 if r.name.startswith("blocks.") else 1]), []).append(r)
    columns = ("part", ">largest |x|", ">sum of squares", ">scale", ">as formed", ">headroom", "least of products")
    return table(title, columns, [_part_row(part, found) for part, found in parts.items()])


def _part_row(part: str, found: Sequence["Reduction"]) -> list[str]:
    norms = [r for r in found if r.kind in ("layernorm", "l2")]
    products = [r for r in found if r not in norms]
    cells = [""] * 6
    if norms:
        r = min(norms, key=lambda r: r.headroom)
        cells[:5] = [f"{r.peak:.4g}", f"{r.unscaled:.4g}", str(Fraction(r.scale)), f"{r.largest:.4g}", _times(r)]
    if products:
        r = min(products, key=lambda r: r.headroom)
        cells[5] = f"{r.name.removeprefix(part).lstrip('.') or r.kind}: {r.largest:.4g}, {_times(r)}"
    return [part, *cells]


def _times(r: "Reduction") -> str:
    return f"2^{math.log2(r.headroom):.1f}" if math.isfinite(r.headroom) and r.headroom > 0 else "-"


def subnormal_line(kinds: Sequence["Subnormals"]) -> str:
    """What fp16 makes of the weights, in one line; kinds that would lose less than 0.1 % are left out."""
    shown = [
        f"{s.kind} {100 * s.share:.2g}% ({100 * s.lost:.2g}% of the norm{f', {s.zero:,} are 0' if s.zero else ''})"
        for s in kinds
        if s.lost >= 0.001
    ]
    return f"Weights below fp16's normal numbers (lost on a GPU that flushes them): {', '.join(shown) or 'none'}."


def _gains(scales: "Scales") -> str:
    """Which norms have a gain, in groups: `21 norms x 1/16 (blocks.2.norm1 to norm)`."""
    groups: dict[float, list[str]] = {}
    for name, gain in scales.gains.items():
        groups.setdefault(gain, []).append(name)
    return (
        ", ".join(
            f"{len(names)} norms x {Fraction(gain)} ({names[0]} to {names[-1]})"
            if len(names) > 1
            else f"{names[0]} x {Fraction(gain)}"
            for gain, names in groups.items()
        )
        or "none"
    )


def _verdict(by_default: "Reduction", tightest: "Reduction", scales: "Scales", enough: float) -> str:
    said = []
    if by_default.headroom < enough:
        large = [gain for gain in scales.gains.values() if gain < 1]
        lowest = Fraction(min(large, default=1.0))
        said.append(
            f"With the stream's scale {Fraction(scales.stream)} alone the least headroom is {by_default.headroom:.3g}x "
            f"({by_default.name}): too little. {len(large)} norms get a gain of {lowest} or more; "
            "`pecore convert` does that by itself."
        )
    said.append(f"Least headroom {tightest.headroom:.3g}x ({tightest.name}); {enough:g}x is asked for.")
    if tightest.headroom < enough:
        said.append("NOT ENOUGH: no scale of a norm helps this one; fp16 will overflow on other images.")
    return "\n".join(said)
