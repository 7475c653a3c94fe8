"""What the verbs that use a bundle share: their options, what an argument means, the encoder."""

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pecore.cli.options import at_least_one
from pecore.console import counting, progress
from pecore.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from pecore.bundle import Bundle
    from pecore.encoder import PerceptionEncoder

BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Bundle to use; the only one in out/ by default.")]
BackendOption = Annotated[str, typer.Option("--backend", help="cpu, gpu or tensorflow.")]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="Which of the bundle's files, such as int8; fp16 by default.")
]
ComputeOption = Annotated[str, typer.Option("--compute", help="What a GPU computes in: fp16 or fp32.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", callback=at_least_one, help="CPU threads; one per core by default.")
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="Folder that `pecore labels` wrote; the bundle by default.")
]
TextCheckpointOption = Annotated[
    Path | None,
    typer.Option("--text-checkpoint", help="File with the text tower, if neither bundle nor hub has it."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the same as JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what the libraries print.")]


def find_bundle(folder: Path | None) -> "Bundle":
    """The bundle that --bundle names, or the only one there is."""
    from pecore.bundle import only_bundle, open_bundle

    return open_bundle(folder) if folder else only_bundle()


def notes(bundle: "Bundle") -> list[str]:
    """What has to be said under a result."""
    return ["Synthetic weights: these figures mean nothing."] * bundle.synthetic


def keep_quiet_at_exit(encoder: "PerceptionEncoder", verbose: bool) -> None:
    """Keep LiteRT's farewell to a GPU from the screen: the model lives until the process ends, when stderr is shut."""
    if encoder.backend == "gpu" and not verbose:
        atexit.register(lambda alive: os.dup2(os.open(os.devnull, os.O_WRONLY), 2), encoder)


@dataclass(frozen=True)
class EncoderChoice:
    """What the options of a verb say about the encoder to open."""

    bundle: Path | None
    backend: str = "cpu"
    weights: str | None = None
    compute: str = "fp16"
    threads: int | None = None
    labels: Path | None = None
    text_checkpoint: Path | None = None
    needs_text: bool = False


def open_encoder(choice: EncoderChoice, verbose: bool = False) -> "PerceptionEncoder":
    """The encoder that the options ask for, with the libraries' chatter kept from the screen. Where texts are needed
    and the bundle has no text tower, PyTorch's takes its place."""
    with progress(verbose) as log:
        log("loading the model")
        from pecore.encoder import PerceptionEncoder

        bundle = find_bundle(choice.bundle)
        text_encoder = None
        if choice.needs_text and (choice.text_checkpoint or not bundle.files("text")):
            from pecore.convert import load

            text_encoder = load.text_encoder(bundle, choice.text_checkpoint)
        encoder = PerceptionEncoder(
            bundle,
            backend=choice.backend,  # type: ignore[arg-type]
            weights=choice.weights,
            compute=choice.compute,  # type: ignore[arg-type]
            threads=choice.threads,
            labels=choice.labels,
            text_encoder=text_encoder,
        )
    keep_quiet_at_exit(encoder, verbose)
    return encoder


def modality_of(argument: str, forced: str | None, option: str) -> str:
    """`image` or `text`: what `option` says, or else an image where there is such a file.

    Raises:
        InputError: another kind, or what looks like an image's name but is not there.
    """
    from pecore.image_formats import image_suffixes

    if forced not in (None, "image", "text"):
        raise InputError(f"{option} is image or text, not {forced!r}")
    if forced:
        return forced
    try:
        if Path(argument).is_file():
            return "image"
    except OSError:  # longer than a path can be
        return "text"
    if Path(argument).suffix.lower() in image_suffixes() and " " not in argument:
        raise InputError(f"there is no image file {argument}; for the words themselves add {option} text")
    return "text"


def tell_left_out(left_out: Mapping[str, int]) -> None:
    """Say on stderr which images of a folder are left out, and what to do about it."""
    from pecore.image_files import left_out_note

    if note := left_out_note(left_out):
        typer.echo(note, err=True)


def each_image(
    what: str, paths: Sequence[Path], use: Callable[[Path, "Image.Image"], None], verbose: bool
) -> list[tuple[Path, str]]:
    """Load every image and `use` it, with progress; those that can't be read, and why, are skipped and returned. What
    `use` raises is no reason to skip."""
    from pecore.image import load_image

    skipped = []
    with counting(what, len(paths), verbose) as progress:
        for done, path in enumerate(paths, start=1):
            problem = None
            try:
                image = load_image(path)
            except InputError as error:
                problem = (path, str(error))
                skipped.append(problem)
            else:
                use(path, image)
            progress(done, problem)
    return skipped
