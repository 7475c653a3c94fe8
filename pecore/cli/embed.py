"""pecore embed"""

from pathlib import Path
from typing import Annotated

import typer

from pecore.cli.inputs import (
    BackendOption,
    BundleOption,
    ComputeOption,
    EncoderChoice,
    JsonOption,
    ThreadsOption,
    VerboseOption,
    WeightsOption,
    open_encoder,
    tell_left_out,
)
from pecore.console import counting, show, show_json

EXAMPLE = "pecore embed ~/Pictures --out pictures.npz"


def embed(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Index to write, an .npz file; one that is there is brought up to date.")],
    bundle: BundleOption = None,
    backend: BackendOption = "cpu",
    weights: WeightsOption = None,
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Embed images into an index for `pecore search` and `pecore cluster` (exit code 1 if one was skipped).

    Stopped work goes on when the command is run again, and unchanged images are not embedded twice.
    """
    from pecore.image_files import survey_images
    from pecore.indexing import build_index

    survey = survey_images(images)
    paths = survey.images
    tell_left_out(survey.left_out)
    encoder = open_encoder(EncoderChoice(bundle, backend, weights, compute, threads), verbose)
    about = {
        "bundle": str(encoder.bundle.folder.absolute()),
        "file": encoder.file.name,
        "backend": backend,
        "space": encoder.bundle.space,
    }
    try:
        with counting("embedding", len(paths), verbose) as progress:
            built = build_index(paths, lambda path: encoder.embed_image(path)[0], out, about, encoder.dim, progress)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(1) from None
    facts = {
        "index": str(out),
        "images": len(built.index),
        "dim": encoder.dim,
        "reused": built.reused,
        "skipped": [{"path": str(path), "reason": reason} for path, reason in built.skipped],
        "left_out": survey.left_out,
        "made_with": about,
    }
    if as_json:
        show_json(facts)
    else:
        reused = f", {built.reused} of them from before" if built.reused else ""
        skipped = f"; {len(built.skipped)} skipped" if built.skipped else ""
        show(f"{len(built.index)} embeddings of {encoder.dim} in {out}{reused}{skipped}.")
    raise typer.Exit(1 if built.skipped else 0)
