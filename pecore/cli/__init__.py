"""The `pecore` command: one file per verb."""

import io
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from pecore.errors import GateError, InputError

app = typer.Typer(
    name="pecore",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Perception Encoder towers as LiteRT graphs for a phone's GPU.\n\n--debug, anywhere: an error's traceback.",
)


@app.callback()
def _verbs() -> None:
    """Without a callback typer would make an only verb the whole command."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done and every gate passed, 1 a gate failed, 2 wrong usage or bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    from pecore.cli import (  # noqa: F401  (each registers its verb)
        ablate,
        bench,
        classify,
        cluster,
        compare,
        convert,
        demo,
        embed,
        evaluate,
        features,
        headroom,
        inspect,
        labels,
        list_variants,
        localize,
        search,
        validate,
    )

    try:
        app(args=[a for a in args if a != "--debug"], prog_name="pecore")
    except (InputError, GateError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, GateError) else 2)
    except (MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        print("error: this machine is out of memory: end other programs, or use a larger one", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a name too long, a place without permission, a full disk; a broken pipe ends in app()
        if debug:
            traceback.print_exc()
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        _leave_stdout()
        sys.exit(2)


def _leave_stdout() -> None:
    """Drop what stdout can't take, or Python would try, fail and complain again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
