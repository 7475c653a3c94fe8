"""What the user sees: results on stdout, progress and errors on stderr, and the third-party libraries' chatter
nowhere. Nothing that is printed is markup: a path or a label may hold brackets."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pecore.errors import GateError, InputError
from pecore.files import to_json

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""

PLAIN_EVERY = 10.0
"""Seconds between two lines of progress over images where there is no terminal."""

TAIL = 4000
"""Bytes of the libraries' chatter that are shown after an unexpected error."""

Skipped = tuple[Path, str]
"""An image that could not be used, and why."""


def console(stream: Any) -> Console:
    """A rich console on `stream`: as wide as the terminal, or `PLAIN_WIDTH` where there is none."""
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(*things: Any) -> None:
    """Print a result."""
    out = console(sys.stdout)
    for thing in things:
        out.print(thing)


def show_json(content: Mapping[str, Any]) -> None:
    """Print a result for machines."""
    text = to_json(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file's name that is not UTF-8, or an ASCII terminal
        text = to_json(content, ascii_only=True)
    print(text, flush=True)  # a full disk is reported here, not when Python ends


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, header: bool = True) -> Table:
    """A table for the terminal. A column whose name begins with `>` is set to the right, all others fold.

    rows: cells as str or rich Text, as many as columns.
    """
    out = Table(title=title or None, title_justify="left", header_style="bold", show_header=header)
    for column in columns:
        right = column.startswith(">")
        out.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        out.add_row(*row)
    return out


@contextmanager
def quiet(verbose: bool = False) -> Iterator[TextIO]:
    """Keep what is written to stdout and stderr, by native code too, from the screen unless `verbose`; yields the
    screen's stderr. The end of what was kept is shown after an unexpected error."""
    if verbose:
        yield sys.stderr
        return
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter, os.fdopen(os.dup(2), "w", errors="backslashreplace") as screen:
        saved = os.dup(1), os.dup(2)
        unexpected = False
        os.dup2(chatter.fileno(), 1)
        os.dup2(chatter.fileno(), 2)
        try:
            yield screen
        except Exception as error:
            unexpected = not isinstance(error, (InputError, GateError, ImportError, typer.Exit))
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, fd in enumerate(saved, start=1):
                os.dup2(fd, number)
                os.close(fd)
            if unexpected:
                chatter.seek(max(0, chatter.seek(0, os.SEEK_END) - TAIL))
                print(chatter.read().decode(errors="replace"), end="", file=sys.stderr)


@contextmanager
def progress(verbose: bool = False) -> Iterator[Callable[[str], None]]:
    """Long work: yields a function to call with each stage's name.

    On a terminal the current stage and its time are shown in one line; elsewhere each stage is a line. `verbose` as
    `quiet` takes it.
    """
    started = time.monotonic()
    with quiet(verbose) as stream:
        screen = console(stream)
        if verbose or not screen.is_terminal:
            yield lambda name: print(f"{time.monotonic() - started:6.1f} s  {name}", file=stream, flush=True)
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=screen) as bar:
            current: list[Any] = []

            def log(name: str) -> None:
                for task in current:
                    bar.update(task, total=1, completed=1)
                current[:] = [bar.add_task(name, total=None)]

            yield log
            for task in current:
                bar.update(task, total=1, completed=1)


@contextmanager
def counting(what: str, total: int, verbose: bool = False) -> Iterator[Callable[[int, Skipped | None], None]]:
    """Progress over `total` images on stderr: yields a function to call with how many are done and, where the last one
    was skipped, its path and why. A bar on a terminal, a line now and then elsewhere; both with the images per second
    since the start and the time that is left."""
    with quiet(verbose) as stream:
        screen = console(stream)
        started = time.monotonic()

        def tell(skipped: Skipped | None) -> None:
            if skipped:
                screen.print(f"skipped: {skipped[1]}")

        if not screen.is_terminal:
            said = time.monotonic()

            def line(done: int, skipped: Skipped | None) -> None:
                nonlocal said
                tell(skipped)
                if done == total or time.monotonic() - said >= PLAIN_EVERY:
                    rate = done / max(time.monotonic() - started, 1e-9)
                    left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
                    screen.print(f"{what}: {done} of {total}, {rate:.1f} images/s{left}")
                    said = time.monotonic()

            yield line
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s", markup=False),
        )
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=screen) as bar:
            task = bar.add_task(what, total=total, rate=0.0)

            def advance(done: int, skipped: Skipped | None) -> None:
                tell(skipped)
                bar.update(task, completed=done, rate=done / max(time.monotonic() - started, 1e-9))

            yield advance
