"""pecore index"""

import time
from typing import Annotated

import typer

from pecore.cli.inputs import JsonOption, VerboseOption
from pecore.console import progress, show, show_json

EXAMPLE = "pecore index pictures.lance"


def index(
    index: Annotated[str, typer.Argument(help="Index that `pecore embed` wrote.")],
    again: Annotated[bool, typer.Option("--again", help="Build anew, not only add the rows that are new.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Build an approximate index (IVF_HNSW_SQ) for `pecore search` over a million rows or more.

    Run it again after more images were embedded; until then a search scans those rows.
    """
    from pecore.index import open_index
    from pecore.index_writer import build_approximate

    opened = open_index(index)
    started = time.monotonic()
    with progress(verbose) as log:
        log(f"indexing {len(opened)} rows")
        build_approximate(opened, again)
    covered, seconds = open_index(index).approximate_rows, time.monotonic() - started
    if as_json:
        show_json({"index": index, "images": len(opened), "approximate_rows": covered, "seconds": seconds})
    else:
        show(f"{covered} of {len(opened)} rows in the approximate index of {index}, in {seconds:.0f} s.")
