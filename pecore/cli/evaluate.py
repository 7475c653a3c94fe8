"""pecore evaluate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pecore.cli.inputs import (
    BundleOption,
    ComputeOption,
    JsonOption,
    LabelsOption,
    ThreadsOption,
    VerboseOption,
    find_bundle,
    keep_quiet_at_exit,
    tell_left_out,
)
from pecore.cli.options import writes
from pecore.console import counting, progress, show, show_json, table
from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.bundle import Bundle
    from pecore.evaluate import Candidate

EXAMPLE = "pecore evaluate --dataset imagenet/val --limit 1000 --save confusion.png"


def evaluate(
    dataset: Annotated[Path, typer.Option(help="Folder with a folder of images for each class (ImageFolder).")],
    bundle: BundleOption = None,
    labels: LabelsOption = None,
    backends: Annotated[str, typer.Option(help="Of cpu, gpu and tensorflow, separated by commas.")] = "cpu",
    weights: Annotated[str, typer.Option(help="Files to evaluate, as in int8,fp16; every one by default.")] = "",
    compute: ComputeOption = "fp16",
    pytorch: Annotated[bool, typer.Option("--pytorch/--no-pytorch", help="PyTorch's tower beside them.")] = True,
    checkpoint: Annotated[Path | None, typer.Option(help="The weights the bundle was made from.")] = None,
    limit: Annotated[int, typer.Option(help="Images to take, evenly over the data set; 0 takes all.")] = 0,
    threads: ThreadsOption = None,
    save: Annotated[
        Path | None, typer.Option(callback=writes(".png"), help="Draw the confusion matrices into this .png.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Zero-shot top-1 and top-5 of a bundle's files beside PyTorch's (exit code 1 if an image was skipped)."""
    with progress(verbose) as log:
        log("loading the towers")
        from pecore.dataset import read_dataset
        from pecore.encoder import PerceptionEncoder
        from pecore.evaluate import Candidate
        from pecore.evaluate import evaluate as run

        found = find_bundle(bundle)
        wanted = [p.strip() for p in weights.split(",") if p.strip()] or list(found.files())
        encoders = [
            PerceptionEncoder(found, backend=b.strip(), weights=p, compute=compute, threads=threads, labels=labels)  # type: ignore[arg-type]
            for p in wanted
            for b in backends.split(",")
        ]
        label_set = encoders[0].labels
        data = read_dataset(dataset, label_set.labels)
        samples = list(data.samples)
        if 0 < limit < len(samples):
            samples = [samples[i * len(samples) // limit] for i in range(limit)]
        towers = [_pytorch(found, checkpoint)] if pytorch else []
        layout, value_range = found.vision.input.layout, found.vision.input.range
        towers += [Candidate(e.file.name, e.backend, e.embed_pixels, layout, value_range) for e in encoders]  # type: ignore[arg-type]
    tell_left_out(data.left_out)
    typer.echo(f"note: {data.paired}", err=True)
    for encoder in encoders:
        keep_quiet_at_exit(encoder, verbose)
    with counting("evaluating", len(samples)) as advance:
        result = run(towers, samples, label_set, encoders[0].image_size, advance)
    rows = result.rows()
    facts: dict[str, Any] = {
        "dataset": str(dataset),
        "bundle": str(found.folder),
        "synthetic_weights": found.synthetic,
        "images": len(result.samples),
        "classes": len({s.target for s in result.samples}),
        "labels": len(label_set.labels),
        "paired": data.paired,
        "left_out": data.left_out,
        "reference": rows[0]["tower"],
        "towers": rows,
        "preprocess_milliseconds": 1000 * sorted(result.preprocess_seconds)[len(result.samples) // 2],
        "skipped": [{"path": str(path), "reason": reason} for path, reason in result.skipped],
    }
    if as_json:
        show_json(facts)
    else:
        show(*_screen(facts))
    if save:
        from pecore.confusion_figure import plot_confusion

        synthetic = "SYNTHETIC weights, " * found.synthetic
        title = f"{found.manifest.name}, {synthetic}{len(result.samples)} images of {dataset.name}"
        plot_confusion(result, label_set.labels, save, title)
    raise typer.Exit(1 if result.skipped else 0)


def _pytorch(bundle: "Bundle", checkpoint: Path | None) -> "Candidate":
    """The bundle's tower in PyTorch; the error says how to do without."""
    from pecore.convert.load import pytorch_candidate

    try:
        return pytorch_candidate(bundle, checkpoint)
    except InputError as error:
        raise InputError(f"{error}; or leave PyTorch out: --no-pytorch") from error


def _screen(facts: dict[str, Any]) -> list[Any]:
    title = f"{facts['images']} images of {facts['classes']} classes, among {facts['labels']} labels"
    rows = [
        (
            row["tower"],
            row["backend"],
            *(f"{100 * row[name]:.2f} %" for name in ("top1", "top5", "agreement")),
            f"{row['least_cosine']:.6f}",
            f"{row['milliseconds']:.1f}",
        )
        for row in facts["towers"]
    ]
    columns = ("tower", "backend", ">top-1", ">top-5", ">same top-1", ">least cosine", ">ms")
    notes = [
        f"Same top-1 and least cosine: against {facts['reference']}. Times: median forward pass; reading and "
        f"preprocessing take {facts['preprocess_milliseconds']:.1f} ms more."
    ]
    if facts["synthetic_weights"]:
        notes.append("Synthetic weights: the accuracy means nothing, the agreement does.")
    return [table(title, columns, rows), *notes]
