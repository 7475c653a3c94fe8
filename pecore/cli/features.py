"""pecore features"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    each_image,
    notes,
    open_encoder,
    tell_left_out,
)
from pecore.cli.options import writes
from pecore.console import show, show_json
from pecore.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

EXAMPLE = "pecore features photo.jpg --bundle out/pe_spatial_base_512 --save pca.png"


def features(
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    save: Annotated[
        Path | None,
        typer.Option(
            callback=writes(".png"), help=".png to write: each image beside its features' principal components."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(callback=writes(".npz"), help="The maps themselves, an .npz file: features [n, C, h, w]."),
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "cpu",
    weights: WeightsOption = None,
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Look at dense features, of a bundle converted with --output features or both (exit code 1 if an image was
    skipped)."""
    import numpy as np

    from pecore.feature_maps import sheet
    from pecore.files import replacing
    from pecore.image import load_image
    from pecore.image_files import survey_images
    from pecore.pictures import save_picture

    if not (save or out):
        raise InputError("nothing to do with the features: add --save pca.png, or --out features.npz")
    survey = survey_images(images)
    named = survey.images
    tell_left_out(survey.left_out)
    encoder = open_encoder(EncoderChoice(bundle, backend, weights, compute, threads), verbose)
    maps, paths = [encoder.features([])], list[Path]()

    def add(path: Path, image: "Image.Image") -> None:
        maps.append(encoder.features(image))
        paths.append(path)

    skipped = each_image("features", named, add, verbose)
    if not paths:
        raise InputError(f"none of the {len(named)} images could be used; the first: {skipped[0][1]}")
    stacked = np.concatenate(maps)
    if out:
        with replacing(out) as file:
            np.savez_compressed(file, features=stacked, paths=np.array([str(path) for path in paths]))
    if save:
        pictures = [load_image(path) for path in paths]
        picture = sheet(pictures, stacked, [path.name for path in paths], " ".join(notes(encoder.bundle)))
        save_picture(picture, save)
    facts = {
        "images": [str(path) for path in paths],
        "left_out": survey.left_out,
        "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
        "shape": list(stacked.shape),
    }
    written = [str(place) for place in (save, out) if place]
    if as_json:
        show_json(facts | {"written": written})
    else:
        channels, height, width = stacked.shape[1:]
        count = f"{len(paths)} map{'s' * (len(paths) > 1)}"
        show(f"{count} of {height} x {width} patches, {channels} channels, in {' and '.join(written)}.")
        show(*notes(encoder.bundle))
    raise typer.Exit(1 if skipped else 0)
