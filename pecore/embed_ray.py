"""Fill an index with Ray: on this machine's cores, or on a cluster.

The driver lists the images and those that the index knows; actors, each with the bundle open, read, decode and embed;
tasks write Lance fragments; and the driver commits the fragments of a round at once. A worker that dies is replaced
and its images are embedded again: only what a round commits is in the index.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pecore.embed import Embedder, Progress, Skipped
from pecore.errors import InputError
from pecore.index_writer import ImageFile, IndexWriter, to_table

ROUND_ROWS = 100_000
"""Images of a round, which is one commit: what a stop loses at most."""

BATCH_ROWS = 64
"""Images that an actor takes at a time."""

FRAGMENT_ROWS = 4096
"""Rows of a fragment, as far as its round has them."""


@dataclass(frozen=True)
class Cluster:
    """Where to run: a cluster's address, or None for $RAY_ADDRESS, or else this machine, and how many
    actors at most; None for one for every CPU."""

    address: str | None = None
    workers: int | None = None


def embed_images(
    images: Sequence[ImageFile],
    embedder: Embedder,
    writer: IndexWriter,
    cluster: Cluster,
    progress: Progress = lambda done, skipped: None,
) -> tuple[int, list[Skipped]]:
    """Embed images into an index, with Ray: a `pecore.embed.Engine` once the other arguments are given.

    Raises:
        InputError: a cluster that can't be reached, or a bundle that its machines don't have.
    """
    import ray

    if not ray.is_initialized():
        try:
            # Left to itself, Ray takes whatever cluster this machine started last, dead or not.
            address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
            ray.init(address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"there is no Ray cluster at {cluster.address} ({error}); check --address") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    added, skipped, done = 0, [], 0
    for start in range(0, len(images), ROUND_ROWS):
        chosen = images[start : start + ROUND_ROWS]
        fragments = []
        try:
            for written in _round(chosen, embedder, writer, cluster.workers).iter_rows():
                fragments += pickle.loads(written["fragments"])
                added += written["rows"]
                done += written["rows"]
                for path, problem in json.loads(written["skipped"]):
                    done += 1
                    skipped.append((path, problem))
                    progress(done, skipped[-1])
                progress(done, None)
        except ray.exceptions.RayError as error:
            raise InputError(f"Ray gave up: {_cause(error)}; what was committed is kept") from error
        writer.commit_fragments(fragments, [image.path for image in chosen])
    return added, skipped


def _round(images: Sequence[ImageFile], embedder: Embedder, writer: IndexWriter, workers: int | None) -> Any:
    """A Ray dataset of what was written: pickled fragments, their rows, and the images that were skipped, as JSON."""
    import pyarrow as pa
    import ray

    blocks = [
        pa.table(
            {
                "path": [_readable(image.path) for image in some],
                "name": [json.dumps(image.path) for image in some],
                "size": [image.size for image in some],
                "modified_ns": [image.modified_ns for image in some],
            }
        )
        for some in (images[i : i + BATCH_ROWS] for i in range(0, len(images), BATCH_ROWS))
    ]
    actors = max(1, min(workers or int(ray.cluster_resources().get("CPU", 1)), len(blocks)))
    embedded = ray.data.from_arrow(blocks).map_batches(
        _Worker,
        fn_constructor_args=(embedder,),
        batch_size=BATCH_ROWS,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=1,
    )
    # Written by tasks that take no CPU of their own: on a small machine the actors hold them all.
    return embedded.map_batches(
        _write,  # type: ignore[arg-type]  # takes arguments more
        fn_args=(writer.location, writer.schema),
        batch_size=FRAGMENT_ROWS,
        batch_format="numpy",
        num_cpus=0,
    )


def _readable(path: str) -> str:
    """A path that a worker in another folder reads, as Arrow can hold it."""
    return json.dumps(path if "://" in path else os.path.abspath(path))


class _Worker:
    """An actor: it is given an `Embedder` that has not opened its bundle yet."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        out = self.embedder({"path": [json.loads(path) for path in batch["path"]]})
        return {
            **{name: batch[name] for name in ("name", "size", "modified_ns")},
            "embedding": out["embedding"],
            "error": np.array([json.dumps(error) for error in out["error"]]),
        }


def _write(batch: Mapping[str, Any], location: str, schema: Any) -> dict[str, Any]:
    """Write the rows of a batch that have an embedding."""
    from lance.fragment import write_fragments

    names, errors = ([json.loads(text) for text in batch[column]] for column in ("name", "error"))
    rows = [row for row, error in enumerate(errors) if not error]
    images = [ImageFile(names[row], int(batch["size"][row]), int(batch["modified_ns"][row])) for row in rows]
    fragments = write_fragments(to_table(images, batch["embedding"][rows], schema), location) if rows else []
    return {
        "fragments": [pickle.dumps(fragments)],
        "rows": [len(rows)],
        "skipped": [json.dumps([(name, error) for name, error in zip(names, errors) if error])],
    }


def _cause(error: Exception) -> str:
    """What a worker raised, out of the traceback that Ray makes of it."""
    said = re.findall(r"^.*?(?:InputError|Error): (.+)$", str(error), re.MULTILINE)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1] if said else lines[-1] if lines else type(error).__name__
