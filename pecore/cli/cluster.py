"""pecore cluster"""

from pathlib import Path
from typing import Annotated

import typer

from pecore.cli.inputs import JsonOption, VerboseOption
from pecore.cli.options import writes
from pecore.console import progress, show, show_json, table

EXAMPLE = "pecore cluster pictures.lance --k 10 --save sheet.png"

SHOWN = 3
"""Images named for each cluster in the table."""


def cluster(
    index: Annotated[str, typer.Argument(help="Index that `pecore embed` wrote.")],
    k: Annotated[int, typer.Option("--k", help="Clusters to make.")] = 10,
    seed: Annotated[int, typer.Option(help="Of k-means' start.")] = 0,
    save: Annotated[
        Path | None, typer.Option(callback=writes(".png"), help="Draw a contact sheet of each cluster into this .png.")
    ] = None,
    thumbnails: Annotated[int, typer.Option(help="Images of each cluster in the picture, the most typical.")] = 10,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Group an index's images by what they show, with k-means."""
    from pecore.index import open_index
    from pecore.pictures import Line, Section, Tile, contact_sheet, save_picture

    opened = open_index(index)
    with progress(verbose) as log:
        log(f"clustering {len(opened)} images")
        from pecore.cluster import cluster as run

        clusters = run(opened.embeddings(), k, seed)
        all_paths = opened.all_paths()
    names = [[all_paths[row] for row in c.rows] for c in clusters]
    if as_json:
        content = [
            {"images": [{"path": p, "cosine": float(cosine)} for p, cosine in zip(paths, c.cosines)]}
            for c, paths in zip(clusters, names)
        ]
        show_json({"index": index, "k": k, "seed": seed, "clusters": content})
    else:
        rows = [
            (str(number), str(len(paths)), f"{c.cosines.mean():.3f}", ", ".join(Path(p).name for p in paths[:SHOWN]))
            for number, (c, paths) in enumerate(zip(clusters, names), start=1)
        ]
        columns = (">cluster", ">images", ">mean cosine with its centre", "most typical")
        show(table(f"{len(opened)} images", columns, rows))
    if save:
        with progress(verbose) as log:
            log("drawing")
            sections = [
                Section(
                    f"{number}: {len(paths)} images",
                    [
                        Tile(path, [Line(f"{cosine:.3f}  {Path(path).name}")])
                        for path, cosine in zip(paths[:thumbnails], c.cosines)
                    ],
                )
                for number, (c, paths) in enumerate(zip(clusters, names), start=1)
            ]
            save_picture(contact_sheet(sections), save)
