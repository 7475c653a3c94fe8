"""pecore classify"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pecore.cli.inputs import (
    BackendOption,
    BundleOption,
    ComputeOption,
    EncoderChoice,
    JsonOption,
    LabelsOption,
    ThreadsOption,
    VerboseOption,
    WeightsOption,
    each_image,
    notes,
    open_encoder,
    tell_left_out,
)
from pecore.cli.options import at_least_one, writes
from pecore.console import progress, show, show_json, table

if TYPE_CHECKING:
    from PIL import Image

    from pecore.encoder import Prediction

EXAMPLE = "pecore classify photo.jpg --bundle out/pe_core_base_224"


def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    top: Annotated[int, typer.Option(callback=at_least_one, help="Labels to show for each image.")] = 5,
    bundle: BundleOption = None,
    labels: LabelsOption = None,
    backend: BackendOption = "cpu",
    weights: WeightsOption = None,
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    save: Annotated[
        Path | None,
        typer.Option(callback=writes(".png"), help="Also draw images and labels into this .png."),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say which of the bundle's labels an image shows (exit code 1 if one of several images was skipped)."""
    from pecore.image_files import survey_images
    from pecore.pictures import Line, Section, Tile, contact_sheet, save_picture

    survey = survey_images(images)
    paths = survey.images
    tell_left_out(survey.left_out)
    encoder = open_encoder(EncoderChoice(bundle, backend, weights, compute, threads, labels), verbose)
    label_set = encoder.labels  # refused, if they have to be, before any image is read
    found: dict[Path, list[Prediction]] = {}
    skipped: list[tuple[Path, str]] = []

    def classify_one(path: Path, image: "Image.Image") -> None:
        found[path] = encoder.classify(image, top)

    if len(paths) == 1:
        with progress(verbose):
            found[paths[0]] = encoder.classify(paths[0], top)
    else:
        skipped = each_image("classifying", paths, classify_one, verbose)
    if as_json:
        show_json(
            {
                "model": encoder.file.name,
                "backend": backend,
                "synthetic_weights": encoder.bundle.synthetic,
                "labels": len(label_set.labels),
                "logit_scale": label_set.logit_scale,
                "images": [{"path": str(p), "predictions": [asdict(b) for b in best]} for p, best in found.items()],
                "left_out": survey.left_out,
                "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
            }
        )
    else:
        rows = [
            ("" if i else str(path), p.label, _percent(p), f"{p.cosine:.4f}")
            for path, best in found.items()
            for i, p in enumerate(best)
        ]
        show(table("", ("image", "label", ">probability", ">cosine"), rows), *notes(encoder.bundle))
    if save:
        tiles = [
            Tile(path, [Line(path.name)] + [Line(f"{p.label} {_percent(p)}", p.probability) for p in best])
            for path, best in found.items()
        ]
        heading = f"{encoder.file.name}, {len(label_set.labels)} labels"
        save_picture(contact_sheet([Section(heading, tiles)]), save)
    raise typer.Exit(1 if skipped else 0)


def _percent(prediction: "Prediction") -> str:
    return f"{100 * prediction.probability:.1f} %"
