"""What the verbs that use a bundle share: their options, what an argument means, and progress over many images."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pecore.cli.options import at_least_one
from pecore.errors import InputError
from pecore.console import counting, progress

if TYPE_CHECKING:
    from PIL import Image

    from pecore.bundle import Bundle
    from pecore.encoder import PerceptionEncoder

PLAIN_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""

BundleOption = Annotated[Path | None, typer.Option("--bundle", help="Bundle to use; the only one in out/ by default.")]
BackendOption = Annotated[str, typer.Option("--backend", help="cpu, gpu or tensorflow.")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Which of the bundle's files, such as int8; fp16 by default.")
]
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
    return ["Synthetic weights: these figures mean nothing."] * bundle.manifest["weights"]["synthetic"]


def keep_quiet_at_exit(encoder: "PerceptionEncoder", verbose: bool) -> None:
    """Keep LiteRT's farewell to a GPU from the screen: the model lives until the process ends, when stderr is shut."""
    if encoder.backend == "gpu" and not verbose:
        atexit.register(lambda alive: os.dup2(os.open(os.devnull, os.O_WRONLY), 2), encoder)


def open_encoder(
    bundle: Path | None,
    backend: str = "cpu",
    precision: str | None = None,
    verbose: bool = False,
    **more: Any,
) -> "PerceptionEncoder":
    """The encoder that the options ask for, with the libraries' chatter kept from the screen."""
    with progress(verbose) as log:
        log("loading the model")
        from pecore.encoder import PerceptionEncoder

        encoder = PerceptionEncoder(find_bundle(bundle), backend=backend, precision=precision, **more)  # type: ignore[arg-type]
    keep_quiet_at_exit(encoder, verbose)
    return encoder


def modality_of(argument: str, forced: str | None, option: str) -> str:
    """`image` or `text`: what `option` says, or else an image where there is such a file.

    Raises:
        InputError: another kind, or what looks like an image's name but is not there.
    """
    from pecore.image import image_suffixes

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


@contextmanager
def counting(what: str, total: int, verbose: bool = False) -> Iterator[Callable[[int, tuple[Path, str] | None], None]]:
    """Progress over `total` images on stderr: yields a function to call with how many are done and, where the last one
    was skipped, its path and why. A bar on a terminal, a line now and then elsewhere; the libraries' chatter is kept
    from the screen unless `verbose`."""
    with _quiet(verbose) as stream:
        screen = console(stream)

        def tell(skipped: tuple[Path, str] | None) -> None:
            if skipped:
                screen.print(f"skipped: {skipped[1]}")

        if not screen.is_terminal:
            said = time.monotonic()

            def line(done: int, skipped: tuple[Path, str] | None) -> None:
                nonlocal said
                tell(skipped)
                if done == total or time.monotonic() - said >= PLAIN_EVERY:
                    screen.print(f"{what}: {done} of {total}")
                    said = time.monotonic()

            yield line
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=screen) as progress:
            task = progress.add_task(what, total=total)

            def bar(done: int, skipped: tuple[Path, str] | None) -> None:
                tell(skipped)
                progress.update(task, completed=done)

            yield bar


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


@contextmanager
def _quiet(verbose: bool) -> Iterator[TextIO]:
    """The screen's stderr, while what else is written to it, by native code too, goes nowhere."""
    if verbose:
        yield sys.stderr
        return
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as screen, open(os.devnull, "wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield screen
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
