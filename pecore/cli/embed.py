"""pecore embed"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pecore.cli.inputs import (
    BackendOption,
    BundleOption,
    ComputeOption,
    EncoderChoice,
    JsonOption,
    ThreadsOption,
    VerboseOption,
    WeightsOption,
    open_encoder,
    tell_left_out,
)
from pecore.cli.options import at_least_one
from pecore.console import counting, progress, show, show_json
from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.embed import Engine, Listing, Progress, Skipped
    from pecore.encoder import PerceptionEncoder
    from pecore.index_writer import ImageFile, IndexWriter

EXAMPLE = "pecore embed ~/Pictures --out pictures.lance"


def embed(
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, addresses (s3://bucket/photos); or an index to convert.")
    ],
    out: Annotated[str, typer.Option(help="Index to fill: a .lance folder or address. Or a file to export to.")],
    form: Annotated[
        str | None, typer.Option("--format", help="lance, npz, parquet or clip-retrieval; by the ending of --out.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove rows of images that are gone from IMAGES.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: many processes or machines.")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster's address; this machine's own by default.")] = None,
    workers: Annotated[
        int | None, typer.Option(callback=at_least_one, help="Ray's actors; one for every CPU by default.")
    ] = None,
    bundle: BundleOption = None,
    backend: BackendOption = "cpu",
    weights: WeightsOption = None,
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Embed images into an index for `pecore search` and `pecore cluster` (exit code 1 if one was skipped).

    Rows are committed some hundred at a time: stopped work goes on when the command is run again, and unchanged images
    are not embedded twice.
    """
    from pecore.embed import list_images
    from pecore.index_formats import format_of

    kind = format_of(out, form)
    if engine not in ("local", "ray"):
        raise InputError(f"there is no engine {engine!r}; take local or ray")
    if engine == "local" and (address or workers):
        raise InputError("--address and --workers are for Ray; add --engine ray")
    if kind != "lance" and "://" in out:
        raise InputError(f"{out}: exports go to this machine's disks; an address takes --format lance")
    if images[0].rstrip("/").endswith((".npz", ".lance")):
        _convert(images, out, kind, as_json)
        return
    location = out if kind == "lance" else str(Path(out).with_suffix(".lance"))
    listed = list_images(images)  # refused, if they have to be, before the model is loaded
    encoder = open_encoder(EncoderChoice(bundle, backend, weights, compute, threads), verbose)

    def engine_of(writer: "IndexWriter", told: "Progress") -> "Engine":
        from pecore import embed, embed_ray

        if engine == "local":
            return partial(embed.embed_images, encoder=encoder, writer=writer, progress=told)
        embedder = embed.Embedder(
            encoder.bundle.folder.absolute(), weights=weights, backend=backend, compute=compute, threads=threads or 1
        )
        cluster = embed_ray.Cluster(address, workers)
        return partial(embed_ray.embed_images, embedder=embedder, writer=writer, cluster=cluster, progress=told)

    try:
        facts = _update(listed, location, encoder, engine_of, images if prune else (), verbose)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(1) from None
    if kind != "lance":
        facts |= {"exported": out, "format": kind}
        _export(location, out, kind)
    if as_json:
        show_json(facts)
    else:
        show(_sentence(facts))
    raise typer.Exit(1 if facts["skipped"] else 0)


def _update(
    listed: "Listing",
    location: str,
    encoder: "PerceptionEncoder",
    engine_of: Any,
    pruned: Sequence[str],
    verbose: bool,
) -> dict[str, Any]:
    """Bring the index at `location` up to date; rows of images that are gone from the places `pruned` go."""
    from pecore.embed import about_rows, update_index
    from pecore.index_writer import IndexWriter

    images = listed.images
    tell_left_out(listed.left_out)
    about = about_rows(encoder)
    writer = IndexWriter(location, about, encoder.dim)

    def counted(wanted: Sequence["ImageFile"]) -> tuple[int, list["Skipped"]]:
        with counting("embedding", len(wanted), verbose) as told:
            return engine_of(writer, told)(wanted)

    updated = update_index(images, writer, counted, pruned)
    return {
        "index": location,
        "images": len(writer),
        "dim": encoder.dim,
        "reused": updated.reused,
        "added": updated.added,
        "pruned": updated.pruned,
        "skipped": [{"path": path, "reason": reason} for path, reason in updated.skipped],
        "left_out": listed.left_out,
        "made_with": about,
    }


def _sentence(facts: Mapping[str, Any]) -> str:
    parts = [f"{facts['images']} embeddings of {facts['dim']} in {facts['index']}: {facts['added']} new"]
    for key in ("reused", "pruned", "skipped"):
        count = len(facts[key]) if key == "skipped" else facts[key]
        parts += [f"{count} {'unchanged' if key == 'reused' else key}"] * bool(count)
    exported = f"; exported to {facts['exported']}" if "exported" in facts else ""
    return f"{', '.join(parts)}{exported}."


def _export(location: str, out: str, kind: str) -> None:
    from pecore.index import open_index
    from pecore.index_formats import export_index

    with progress() as log:
        log(f"exporting to {out}")
        export_index(open_index(location), Path(out), kind)


def _convert(sources: Sequence[str], out: str, kind: str, as_json: bool) -> None:
    """An index to another form, or an .npz to an index."""
    from pecore.index import open_index
    from pecore.index_formats import import_npz

    source = sources[0].rstrip("/")
    if len(sources) > 1:
        raise InputError(f"{source} is an index, which is converted alone, without {sources[1]}")
    if source.endswith(".npz"):
        if kind != "lance":
            raise InputError(f"{source} is imported into a .lance folder, not {out}; export that in a second step")
        with progress() as log:
            log(f"importing {source}")
            count = import_npz(Path(source), out)
    else:
        if kind == "lance":
            raise InputError(f"{source} is an index already; give --out a .npz, .parquet or --format clip-retrieval")
        count = len(open_index(source))
        _export(source, out, kind)
    if as_json:
        show_json({"source": source, "out": out, "format": kind, "images": count})
    else:
        show(f"{count} embeddings from {source} in {out}.")
