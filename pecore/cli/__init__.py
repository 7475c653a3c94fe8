"""The `pecore` command: one file per verb, listed here."""

import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

import typer

from pecore.cli import (
    ablate,
    bench,
    classify,
    cluster,
    compare,
    convert,
    embed,
    evaluate,
    features,
    headroom,
    index,
    inspect,
    labels,
    list_variants,
    localize,
    search,
    serve,
    validate,
)
from pecore.errors import GateError, InputError
from pecore.extras import missing_extra

VERBS: Mapping[str, tuple[Callable[..., None], str]] = {
    "convert": (convert.convert, convert.EXAMPLE),
    "labels": (labels.labels, labels.EXAMPLE),
    "list": (list_variants.list_variants, list_variants.EXAMPLE),
    "classify": (classify.classify, classify.EXAMPLE),
    "compare": (compare.compare, compare.EXAMPLE),
    "embed": (embed.embed, embed.EXAMPLE),
    "index": (index.index, index.EXAMPLE),
    "search": (search.search, search.EXAMPLE),
    "cluster": (cluster.cluster, cluster.EXAMPLE),
    "features": (features.features, features.EXAMPLE),
    "evaluate": (evaluate.evaluate, evaluate.EXAMPLE),
    "serve": (serve.serve, serve.EXAMPLE),
    "inspect": (inspect.inspect, inspect.EXAMPLE),
    "validate": (validate.validate, validate.EXAMPLE),
    "localize": (localize.localize, localize.EXAMPLE),
    "headroom": (headroom.headroom, headroom.EXAMPLE),
    "ablate": (ablate.ablate, ablate.EXAMPLE),
    "bench": (bench.bench, bench.EXAMPLE),
}
"""In the order of the help: make a bundle, use it, look into it."""

app = typer.Typer(
    name="pecore",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Perception Encoder towers as LiteRT graphs for a phone's GPU.\n\n--debug, anywhere: an error's traceback.",
)
for _name, (_verb, _example) in VERBS.items():
    app.command(_name, epilog=f"Example:  {_example}")(_verb)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done and every gate passed, 1 a gate failed, 2 wrong usage or bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    try:
        app(args=[a for a in args if a != "--debug"], prog_name="pecore")
    except (InputError, GateError) as error:
        _fail(str(error), debug, 1 if isinstance(error, GateError) else 2)
    except ImportError as error:
        if debug or not (sentence := missing_extra(error)):
            raise
        _fail(sentence, debug)
    except (MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        _fail("this machine is out of memory: end other programs, or use a larger one", debug)
    except OSError as error:  # a name too long, a place without permission, a full disk; a broken pipe ends in app()
        place = f"{error.filename}: " if error.filename else ""
        _leave_stdout()
        _fail(f"{place}{error.strerror or error}", debug)


def _fail(sentence: str, debug: bool, code: int = 2) -> None:
    if debug:
        traceback.print_exc()
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)


def _leave_stdout() -> None:
    """Drop what stdout can't take, or Python would try, fail and complain again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
