"""pecore evaluate"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pecore.cli.inputs import (
    BundleOption,
    JsonOption,
    LabelsOption,
    ThreadsOption,
    VerboseOption,
    counting,
    find_bundle,
    keep_quiet_at_exit,
)
from pecore.cli.options import writes
from pecore.console import progress, show, show_json

EXAMPLE = "pecore evaluate --dataset imagenet/val --limit 1000 --save confusion.png"


def evaluate(
    dataset: Annotated[Path, typer.Option(help="Folder with a folder of images for each class (ImageFolder).")],
    bundle: BundleOption = None,
    labels: LabelsOption = None,
    backends: Annotated[str, typer.Option(help="Of cpu, gpu and tensorflow, separated by commas.")] = "cpu",
    precision: Annotated[str, typer.Option(help="Files to evaluate; every one in the bundle by default.")] = "",
    reference: Annotated[bool, typer.Option("--reference/--no-reference", help="PyTorch's tower beside them.")] = True,
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
        from pecore.encoder import PerceptionEncoder
        from pecore.evaluate import Tower, read_dataset, torch_tower
        from pecore.evaluate import evaluate as run

        found = find_bundle(bundle)
        wanted = [p.strip() for p in precision.split(",") if p.strip()] or list(found.files())
        encoders = [
            PerceptionEncoder(found, backend=b.strip(), precision=p, threads=threads, labels=labels)  # type: ignore[arg-type]
            for p in wanted
            for b in backends.split(",")
        ]
        label_set = encoders[0].labels
        samples = read_dataset(dataset, label_set.labels)
        if 0 < limit < len(samples):
            samples = [samples[i * len(samples) // limit] for i in range(limit)]
        form = found.manifest["input"]
        towers = [torch_tower(found, checkpoint)] if reference else []
        towers += [Tower(e.file.name, e.backend, e.embed_pixels, form["layout"], form["range"]) for e in encoders]
    for encoder in encoders:
        keep_quiet_at_exit(encoder, verbose)
    with counting("evaluating", len(samples)) as progress:
        result = run(towers, samples, label_set, encoders[0].image_size, progress)
    rows = result.rows()
    facts: dict[str, Any] = {
        "dataset": str(dataset),
        "bundle": str(found.folder),
        "synthetic_weights": found.manifest["weights"]["synthetic"],
        "images": len(result.samples),
        "classes": len({s.target for s in result.samples}),
        "labels": len(label_set.labels),
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
        from pecore.confusion_plot import plot_confusion

        synthetic = "SYNTHETIC weights, " * found.manifest["weights"]["synthetic"]
        title = f"{found.manifest['name']}, {synthetic}{len(result.samples)} images of {dataset.name}"
        plot_confusion(result, label_set.labels, save, readable(title))
    raise typer.Exit(1 if result.skipped else 0)


def _screen(facts: dict[str, Any]) -> list[Any]:
    title = f"{facts['images']} images of {facts['classes']} classes, among {facts['labels']} labels"
    out = Table(title=title, title_justify="left", header_style="bold")
    out.add_column("tower", overflow="fold")
    out.add_column("backend")
    for column in ("top-1", "top-5", "same top-1", "least cosine", "ms"):
        out.add_column(column, justify="right")
    for row in facts["towers"]:
        shares = [f"{100 * row[name]:.2f} %" for name in ("top1", "top5", "agreement")]
        out.add_row(row["tower"], row["backend"], *shares, f"{row['least_cosine']:.6f}", f"{row['milliseconds']:.1f}")
    notes = [
        f"Same top-1 and least cosine: against {facts['reference']}. Times: median forward pass; reading and "
        f"preprocessing take {facts['preprocess_milliseconds']:.1f} ms more."
    ]
    if facts["synthetic_weights"]:
        notes.append("Synthetic weights: the accuracy means nothing, the agreement does.")
    return [out, *notes]
