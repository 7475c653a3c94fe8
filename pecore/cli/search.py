"""pecore search"""

from pathlib import Path
from typing import Annotated

import typer

from pecore.cli.inputs import (
    BackendOption,
    BundleOption,
    EncoderChoice,
    JsonOption,
    TextCheckpointOption,
    ThreadsOption,
    VerboseOption,
    modality_of,
    notes,
    open_encoder,
)
from pecore.cli.options import at_least_one, writes
from pecore.console import progress, show, show_json, table

EXAMPLE = 'pecore search pictures.lance "a dog on a beach" --save found.png'


def search(
    index: Annotated[str, typer.Argument(help="Index that `pecore embed` wrote.")],
    query: Annotated[str, typer.Argument(help="A text, or an image file.")],
    top: Annotated[int, typer.Option(callback=at_least_one, help="Images to find.")] = 10,
    query_type: Annotated[str | None, typer.Option(help="image or text; an image where there is such a file.")] = None,
    where: Annotated[
        str | None, typer.Option(help='Only such images: SQL on path, size, modified, as in "size > 100000".')
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row though an index is there.")] = False,
    bundle: BundleOption = None,
    text_checkpoint: TextCheckpointOption = None,
    backend: BackendOption = "cpu",
    threads: ThreadsOption = None,
    save: Annotated[
        Path | None, typer.Option(callback=writes(".png"), help="Also draw what was found into this .png.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the images nearest to a text or an image: among all, or, once `pecore index` was run, approximately."""
    from pecore.bundle import check_same_space
    from pecore.index import open_index
    from pecore.pictures import Line, Section, Tile, contact_sheet, save_picture

    kind = modality_of(query, query_type, "--query-type")
    opened = open_index(index)
    made_with = Path(opened.about.get("bundle") or "nowhere")
    if bundle is None and made_with.is_dir():
        bundle = made_with
    choice = EncoderChoice(bundle, backend, threads=threads, text_checkpoint=text_checkpoint, needs_text=kind == "text")
    encoder = open_encoder(choice, verbose)
    check_same_space(opened.space, encoder.bundle, index)
    approximate = 0 if exact else opened.approximate_rows
    with progress(verbose) as log:
        log("embedding the query")
        embedding = encoder.embed_image(query) if kind == "image" else encoder.embed_text(query)
        log(f"searching {len(opened)} images{', approximately' if approximate else ''}")
        found = opened.search(embedding[0], top, where, exact)
    if as_json:
        show_json(
            {
                "index": index,
                "images": len(opened),
                "approximate": bool(approximate),
                "query": query,
                "query_type": kind,
                "backend": backend,
                "synthetic_weights": encoder.bundle.synthetic,
                "found": [{"path": f.path, "cosine": f.cosine} for f in found],
            }
        )
    else:
        title = f"{query} ({kind}), in {len(opened)} images"
        cells = [(f"{f.cosine:.4f}", f.path) for f in found]
        how = f"Approximate, by an index of {approximate} rows; --exact compares with all of them."
        show(table(title, (">cosine", "image"), cells), *[how] * bool(approximate), *notes(encoder.bundle))
    if save:
        asked = Tile(query, [Line("the query")]) if kind == "image" else Tile(None, [Line("the query")], query)
        tiles = [Tile(f.path, [Line(f"{f.cosine:.4f}  {Path(f.path).name}")]) for f in found]
        save_picture(contact_sheet([Section(f"{query}: {len(found)} of {len(opened)}", [asked, *tiles])]), save)
