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

EXAMPLE = 'pecore search pictures.npz "a dog on a beach" --save found.png'


def search(
    index: Annotated[Path, typer.Argument(help="Index that `pecore embed` wrote.")],
    query: Annotated[str, typer.Argument(help="A text, or an image file.")],
    top: Annotated[int, typer.Option(callback=at_least_one, help="Images to find.")] = 10,
    query_type: Annotated[str | None, typer.Option(help="image or text; an image where there is such a file.")] = None,
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
    """Find the images nearest to a text or an image: exact, over the whole index."""
    from pecore.bundle import check_same_space
    from pecore.index import read_index, top_k
    from pecore.pictures import Line, Section, Tile, contact_sheet, save_picture

    kind = modality_of(query, query_type, "--query-type")
    opened = read_index(index)
    made_with = Path(opened.about["bundle"])
    if bundle is None and made_with.is_dir():
        bundle = made_with
    choice = EncoderChoice(bundle, backend, threads=threads, text_checkpoint=text_checkpoint, needs_text=kind == "text")
    encoder = open_encoder(choice, verbose)
    check_same_space(opened.about["space"], encoder.bundle, str(index))
    with progress(verbose) as log:
        log("embedding the query")
        embedding = encoder.embed_image(query) if kind == "image" else encoder.embed_text(query)
        log(f"searching {len(opened)} images")
        rows, cosines = top_k(embedding, opened.embeddings, top)
    found = [(opened.paths[row], float(cosine)) for row, cosine in zip(rows[0], cosines[0])]
    if as_json:
        show_json(
            {
                "index": str(index),
                "images": len(opened),
                "query": query,
                "query_type": kind,
                "backend": backend,
                "synthetic_weights": encoder.bundle.synthetic,
                "found": [{"path": path, "cosine": cosine} for path, cosine in found],
            }
        )
    else:
        title = f"{query} ({kind}), in {len(opened)} images"
        cells = [(f"{cosine:.4f}", path) for path, cosine in found]
        show(table(title, (">cosine", "image"), cells), *notes(encoder.bundle))
    if save:
        asked = Tile(query, [Line("the query")]) if kind == "image" else Tile(None, [Line("the query")], query)
        tiles = [Tile(path, [Line(f"{cosine:.4f}  {Path(path).name}")]) for path, cosine in found]
        save_picture(contact_sheet([Section(f"{query}: {len(found)} of {len(opened)}", [asked, *tiles])]), save)
