"""pecore convert"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pecore.cli.gates_table import gates_table
from pecore.cli.options import (
    AcceptLicence,
    Amplitude,
    Ema,
    ImageSize,
    Npu,
    NpuRun,
    RequireNpu,
    Seed,
    Verbose,
    npu_options,
    weights_source,
)
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pecore.bundle import FileEntry
    from pecore.variants import Variant

EXAMPLE = "pecore convert --size B16 --weights synthetic --precision fp16,int8"


def convert(
    size: Annotated[
        str | None, typer.Option(help="A core tower: T16, S16, B16, L14, G14, or drawings-T16, which needs no hub.")
    ] = None,
    variant_name: Annotated[
        str | None,
        typer.Option("--variant", metavar="NAME", help="Or any of the family: core-b16, spatial-b16, lang-l14-tiling."),
    ] = None,
    timm_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Or timm's name, any of its Eva class (`pecore list --all`), with the weights' tag; a --checkpoint "
            "may have a head of its own (fine-tuned).",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(help="hub (drawings-T16: the file in this package), or synthetic: seeded, classifies nothing."),
    ] = "hub",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A local file, or folder of shards, instead: timm's or open_clip's keys, or Meta's."),
    ] = None,
    ema: Ema = True,
    tower: Annotated[str, typer.Option(help="vision, or text: token ids to text embedding.")] = "vision",
    precision: Annotated[
        str | None,
        typer.Option(help="Files to make: fp16, int8, fp32, a16w8 (for NPUs), with commas; of a text tower int8."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="embedding, features, both or logits; by default what the tower is for."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Features of this block, 0 to the last or -1 backwards; the last.")
    ] = None,
    image_size: ImageSize = None,
    pool: Annotated[
        str | None,
        typer.Option(help="With --timm-model: embedding from the class token (token) or the patches' mean (avg)."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images that the graph takes at once.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder that the bundle's folder goes into.")] = Path("out"),
    input_layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    input_range: Annotated[
        str, typer.Option(help="-1..1, 0..1 or 0..255: the normalisation goes into the graph.")
    ] = "-1..1",
    images: Annotated[
        Path | None, typer.Option(help="Folder of photographs for the gates, instead of the built-in ones.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs that a16w8 takes its ranges from; those of --images."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="Run the GPU gate where there is an adapter.")] = True,
    require_gpu: Annotated[bool, typer.Option("--require-gpu", help="No adapter is an error.")] = False,
    npu: Npu = None,
    npu_run: NpuRun = False,
    require_npu: RequireNpu = False,
    accept_licence: AcceptLicence = False,
    runtime: Annotated[
        str | None, typer.Option(help="LiteRT version whose rules the graph gate applies; the newest known.")
    ] = None,
    synthetic_amplitude: Amplitude = 400.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Convert a tower to .tflite, run every gate, and write the bundle (a text tower joins the vision tower's)."""
    with progress(verbose) as log:
        log("starting")
        from pecore.convert import checkpoint as checkpoints
        from pecore.convert import pipeline
        from pecore.validate.rules import runtimes

        if tower not in ("vision", "text"):
            raise InputError(f"unknown tower {tower!r}: choose vision or text")
        text = tower == "text"
        about_vision = {
            "--images": images,
            "--input-layout": input_layout != "nchw",
            "--input-range": input_range != "-1..1",
            "--output": output,
            "--layer": layer is not None,
            "--image-size": image_size is not None,
            "--pool": pool,
            "--batch": batch != 1,
            "--npu": npu,
            "--calibrate": calibrate,
        }
        if text and (given := [name for name, value in about_vision.items() if value]):
            raise InputError(f"{' and '.join(given)}: about a vision tower, leave it out")
        if pool and not timm_model:
            raise InputError(f"--pool {pool}: for a --timm-model, leave it out")
        variant = choose_variant(size, variant_name, timm_model, checkpoint, image_size, pool)
        if timm_model and checkpoint and not output and layer is None and not text:
            require_known_head(variant, checkpoint)
        common: Any = {
            "precisions": tuple(p.strip() for p in (precision or ("int8" if text else "fp16")).split(",")),
            "gpu": "require" if require_gpu else "auto" if gpu else "skip",
            "runtime": runtime or runtimes()[-1],
            "npu": npu_options(npu, npu_run, require_npu, accept_licence),
        }
        source = weights_source(weights, checkpoint)
        log("loading weights")
        if text:
            from pecore.convert.text_tower import load_text

            loaded_text = load_text(variant, source, seed=seed, ema=ema, log=log)
            target, gates = out / variant.artefact, pipeline.GateOptions(**common)
            result = pipeline.convert_text(variant, loaded_text, target, gates, log)
        else:
            options = pipeline.VisionOptions(
                output=output,
                layer=layer,
                batch=batch,
                input_layout=input_layout,
                input_range={"0-1": "0..1", "0-255": "0..255"}.get(input_range, input_range),
                images=images,
                calibrate=calibrate,
                **common,
            )
            target = out / pipeline.bundle_name(variant, options)
            loaded = checkpoints.load(variant, source, seed=seed, amplitude=synthetic_amplitude, ema=ema, log=log)
            result = pipeline.convert(variant, loaded, target, options, log)
    if as_json:
        show_json(result.report)
    else:
        section = result.manifest.text if text else result.manifest.vision
        gates_of = gates_table(result.checks, f"Gates of {result.report['name']}")
        show(gates_of, files_table(section.files if section else {}), _closing(result))
    raise typer.Exit(0 if result.passed else 1)


def choose_variant(
    size: str | None,
    name: str | None,
    timm_model: str | None,
    checkpoint: Path | None,
    image_size: int | None,
    pool: str | None = None,
) -> "Variant":
    """The variant that one of `--size`, `--variant` and `--timm-model` names, for images of `image_size`; with
    `--timm-model`, with the head that the checkpoint has."""
    from pecore.convert.checkpoint import head_size
    from pecore.convert.timm_tower import timm_variant
    from pecore.variants import find, resized

    given = [value for value in (size, name, timm_model) if value is not None]
    if len(given) != 1:
        raise InputError(
            f"{len(given)} towers are named: give one of --size B16, --variant spatial-b16, --timm-model NAME"
        )
    if timm_model is None:
        variant = find(given[0])
    else:
        variant, image_size = timm_variant(timm_model, image_size, pool), None
        if checkpoint:
            variant = replace(variant, embedding_dim=head_size(checkpoint))
    if size is not None and variant.family != "core":
        raise InputError(f"--size is for core towers: give --variant {variant.name}")
    return variant if image_size is None else resized(variant, image_size)


def require_known_head(variant: "Variant", checkpoint: Path) -> None:
    """Refuse to guess what a head of a checkpoint's own is: as wide as the embedding, it may be that or a classifier.

    Raises:
        InputError: with both ways to say it.
    """
    if variant.output == "embedding":
        outputs = variant.embedding_dim
        raise InputError(
            f"the head in {checkpoint} has {outputs} outputs, as many as {variant.size}'s embedding: say which it is, "
            f"--output embedding, or --output logits for a classifier of {outputs} classes"
        )


def files_table(files: "Mapping[str, FileEntry]") -> Table:
    """What was made: one row a `.tflite`."""
    rows = [
        (name, file.precision, f"{file.bytes / 1e6:.1f}", str(file.ops), file.sha256[:12])
        for name, file in files.items()
        if file.precision
    ]
    return table("Files", ("file", "weights", ">MB", ">ops", "sha256"), rows)


def _closing(result: Any) -> str:
    notes = []
    if result.report["weights"]["synthetic"]:
        notes.append("Synthetic weights: this graph proves the conversion and classifies nothing.")
    if result.passed:
        notes.append(f"Every gate that ran passed. Bundle: {result.folder}")
    else:
        notes.append(f"A gate FAILED. What was made, for a look only: {result.folder}")
    return "\n".join(notes)
