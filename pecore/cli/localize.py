"""pecore localize"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pecore.cli.options import Amplitude, Seed, Verbose, weights_source, writes
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.convert.load import WeightsSource
    from pecore.runtime import Arrays, Model
    from pecore.validate.localize import Error, Localization, StepErrors

EXAMPLE = "pecore localize out/pe_core_base_224 --save localize.png"

SHOWN_AFTER = 3
"""Steps shown after the first wrong one; what follows is wrong because it was."""


def localize(
    target: Annotated[str, typer.Argument(help="Any .tflite, a bundle's folder, or a size, which is converted first.")],
    against: Annotated[
        Path | None,
        typer.Option(help="A .tflite of the same conversion to hold the CPU against (the float32 one, say)."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="An .npz of samples by the graph's input names; the first is run."),
    ] = None,
    weights: Annotated[str, typer.Option(help="For a size: hub, or synthetic.")] = "hub",
    checkpoint: Annotated[Path | None, typer.Option(help="The weights that a size or bundle is made from.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Error from which a step is wrong: 0.05, with int8 weights 0.1.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="Run the GPU delegate, in fp16 and in fp32.")] = True,
    save: Annotated[
        Path | None, typer.Option(callback=writes(".png"), help="Write the plot over depth to this .png.")
    ] = None,
    synthetic_amplitude: Amplitude = 400.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON, every step.")] = False,
    verbose: Verbose = False,
) -> None:
    """Find the first block, and the step in it, that a backend gets wrong (exit code 1 if there is one)."""
    with progress(verbose) as log, tempfile.TemporaryDirectory(prefix="pecore-localize-") as folder:
        log("starting")
        from pecore.bundle import MANIFEST
        from pecore.runtime import open_model
        from pecore.validate import localize as search
        from pecore.validate.plots import plot_localization

        path, tower, about = Path(target), None, ""
        if not path.exists() and not path.suffix:
            from pecore.convert.load import WeightsSource

            source = WeightsSource(weights_source(weights, checkpoint), seed, synthetic_amplitude)
            path, tower, about = convert_size(target, source, folder, log)
        elif path.is_dir() or (path.parent / MANIFEST).is_file():
            path, tower, about = from_bundle(path, checkpoint, log)
        model = open_model(path, backend="cpu")
        arrays = sample(model, inputs or reference_of(path), required=inputs is not None)
        held: tuple[str, Any] | None = None
        if against:
            held = against.name, search.file_reference(against, arrays)
        elif tower is not None:
            held = "PyTorch", search.torch_reference(tower, arrays)
        runners = {f"ML Drift {p}": search.gpu_runner(p) for p in ("fp16", "fp32")} if gpu else {}
        found = search.localize(path, arrays, runners, held, threshold, log)
        title = f"{path.name}{about}"
    if as_json:
        show_json({"file": path.name, **found.as_dict()})
    else:
        show(*tables(found, title), *sentences(found))
    if save:
        with progress(verbose) as log:
            log("drawing")
            plot_localization(found, save, title)
    raise typer.Exit(0 if found.sound else 1)


def convert_size(size: str, source: "WeightsSource", folder: str, log: Callable[[str], None]) -> tuple[Path, Any, str]:
    """The fp16 file that a conversion would make of a size, in `folder`; its tower in PyTorch; what to call it."""
    import torch

    from pecore.convert.load import load_tower
    from pecore.convert.resources import check_resources
    from pecore.convert.tflite_files import write_files
    from pecore.image import preprocess
    from pecore.rewrites.tower import default_output, rewrite
    from pecore.validate.headroom import fit_scales
    from pecore.validate.photographs import photographs
    from pecore.variants import find

    try:
        variant = find(size)
    except InputError as error:
        raise InputError(
            f"{size} is neither a file, a bundle's folder nor a size: give one of them, such as B16"
        ) from error
    check_resources(variant.parameters, ("fp16",), Path(folder))
    log("loading weights")
    loaded = load_tower(size, source)
    images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in photographs()]
    log(f"measuring headroom on {len(images)} photographs")
    tower = rewrite(loaded.model, fit_scales(loaded.model, images)[0])
    path = Path(folder, f"{variant.artefact}_fp16.tflite")
    write_files(lambda: tower, {"image": images[0]}, {"fp16": path}, default_output(loaded.model).names, log)
    return path, tower, _about(loaded.weights)


def from_bundle(path: Path, checkpoint: Path | None, log: Callable[[str], None]) -> tuple[Path, Any, str]:
    """A file of a bundle (the first, where its folder is given), its tower in PyTorch, and what to call it.

    The tower is None where the bundle does not list the file, or its weights are neither synthetic nor given.
    """
    from pecore.bundle import open_bundle
    from pecore.precision import PRECISIONS

    try:
        bundle = open_bundle(path if path.is_dir() else path.parent)
    except InputError:
        if path.is_dir():
            raise
        return path, None, ""  # beside someone else's manifest.json
    path = bundle.file() if path.is_dir() else path
    vision, text = bundle.vision, bundle.manifest.text
    origin = text.weights if text and path.name in text.files else vision.weights
    if path.name not in vision.files or not (origin.synthetic or checkpoint):
        return path, None, _about(origin)
    log("loading weights")
    from pecore.convert.load import bundle_tower
    from pecore.rewrites import Output, PixelRange, Scales, rewrite

    tower = rewrite(
        bundle_tower(bundle, checkpoint),
        Scales(**vision.scales),
        output=Output(**vision.tower_output),
        input_layout=str(vision.input.layout),
        input_range=PixelRange(str(vision.input.range), vision.preprocessing["mean"], vision.preprocessing["std"]),
        keep_norm_weights=PRECISIONS[str(vision.files[path.name].precision)].keep_norm_weights,
    )
    return path, tower, _about(origin)


def _about(weights: Any) -> str:
    return f", {'SYNTHETIC weights: ' * weights.synthetic}{weights.source}"


def reference_of(path: Path) -> Path:
    """The samples beside a file: in a bundle the text tower has its own."""
    from pecore.bundle import REFERENCE, TEXT_REFERENCE, read_manifest

    try:
        text = read_manifest(path.parent).text
    except InputError:  # no bundle
        text = None
    return path.with_name(TEXT_REFERENCE if text and path.name in text.files else REFERENCE)


def sample(model: "Model", file: Path, required: bool) -> "Arrays":
    """The first sample of an .npz; without one, a photograph where an input looks like an image, else seeded noise."""
    from pecore.image import preprocess
    from pecore.validate.gpu_child import noise
    from pecore.validate.photographs import photographs
    from pecore.validate.reference import load_reference

    if required or file.is_file():
        return load_reference(file, model.inputs, {})[0][0]
    arrays = noise(model.inputs)
    for name, spec in model.inputs.items():
        for layout, channels, side in (("nchw", 1, 2), ("nhwc", 3, 1)):
            shape = spec.shape
            if len(shape) == 4 and shape[channels] == 3 and shape[side] == shape[side + 1] and spec.dtype == "float32":
                arrays[name] = preprocess(next(photographs())[1], shape[side], layout=layout)  # type: ignore[arg-type]
    return arrays


def tables(found: "Localization", title: str) -> list[Table]:
    """Errors over depth, and inside the parts that are the first wrong ones."""
    out = [_table(found, found.parts, title, {"part": lambda row: row.step.part})]
    for part in dict.fromkeys(row.step.part for row in found.inside):
        rows = [row for row in found.inside if row.step.part == part]
        last = max((i for i, row in enumerate(rows) if row in found.first.values()), default=0) + SHOWN_AFTER
        names = {"step": lambda r: r.step.name, "op": lambda r: f"{r.step.op.name} ({r.step.op.index})"}
        out.append(_table(found, rows[: last + 1], f"Inside {part}", names))
    return out


def _table(
    found: "Localization", rows: Sequence["StepErrors"], title: str, names: Mapping[str, Callable[["StepErrors"], str]]
) -> Table:
    headings = [
        ">" + what.replace(" against", "\nagainst") + "\ncorrel.   relative channel" for what in found.columns.values()
    ]
    lines = [
        [
            *(name(row) for name in names.values()),
            f"{row.largest:.3g}",
            *(_figures(row.errors.get(column), found.threshold) for column in found.columns),
        ]
        for row in rows
    ]
    return table(title, [*names, ">largest", *headings], lines)


def _figures(error: "Error | None", threshold: float) -> str | Text:
    if error is None:
        return ""
    if error.nonfinite:
        text = f"{error.nonfinite:,} inf or NaN"
    else:
        correlation = "-" if math.isnan(error.correlation) else f"{error.correlation:.6f}"
        text = f"{correlation:>9} {error.relative:8.1e} {error.channel:7.1e}"
    return text if error.size <= threshold else Text(text, style="bold red")


def sentences(found: "Localization") -> list[str]:
    """The verdict, one sentence for each column, and what could not be run."""
    said = []
    for column, what in found.columns.items():
        row = found.first[column]
        if row is None:
            said.append(f"{what}: no part is past {found.threshold:g}.")
        else:
            error = row.errors[column]
            figure = f"{error.nonfinite:,} elements inf or NaN" if error.nonfinite else f"error {error.size:.2g}"
            where = f"{row.step.part}, {row.step.name}, {row.step.op.name} (op {row.step.op.index})"
            said.append(f"{what}: wrong from {where} on: {figure}.")
    said += [f"{name} was left out: {why}." for name, why in found.skipped.items()]
    return said + [f"{name} FAILED to run it: {why}; pecore validate says more." for name, why in found.broken.items()]
