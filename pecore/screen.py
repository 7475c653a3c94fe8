"""What the user sees: results on stdout, progress and errors on stderr, and the third-party libraries' chatter
nowhere. Nothing that is printed is markup: a path or a label may hold brackets."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pecore.errors import GateError, InputError

PLAIN_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""

TAIL = 4000
"""Bytes of the libraries' chatter that are shown after an unexpected error."""


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
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file's name that is not UTF-8, or an ASCII terminal
        text = json.dumps(content, indent=2, allow_nan=False)
    print(text, flush=True)  # a full disk is told here, not when Python ends


def readable(text: str) -> str:
    """`text` for Matplotlib, which takes no file's name that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def working(verbose: bool = False) -> Iterator[Callable[[str], None]]:
    """Long work: yields a function to call with each stage's name.

    On a terminal the current stage and its time are shown in one line; elsewhere each stage is a line. Whatever else is
    written to stdout or stderr meanwhile, by native code too, is kept from the screen unless `verbose`; its end is
    shown after an unexpected error.
    """
    started = time.monotonic()
    if verbose:
        yield lambda name: print(f"{time.monotonic() - started:6.1f} s  {name}", file=sys.stderr, flush=True)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter, os.fdopen(os.dup(2), "w", errors="backslashreplace") as screen:
        saved = os.dup(1), os.dup(2)
        unexpected = False
        os.dup2(chatter.fileno(), 1)
        os.dup2(chatter.fileno(), 2)
        try:
            with _stages(console(screen), started) as stage:
                yield stage
        except Exception as error:
            unexpected = not isinstance(error, (InputError, GateError, typer.Exit))
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
def _stages(screen: Console, started: float) -> Iterator[Callable[[str], None]]:
    if not screen.is_terminal:
        yield lambda name: screen.print(f"{time.monotonic() - started:6.1f} s  {name}")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=screen) as progress:
        current: list[Any] = []

        def stage(name: str) -> None:
            for task in current:
                progress.update(task, total=1, completed=1)
            current[:] = [progress.add_task(name, total=None)]

        yield stage
        for task in current:
            progress.update(task, total=1, completed=1)
