"""Embed many images: decoding in threads ahead of inference, in this process or in many.

`Embedder` is what Ray, Daft, Spark or a Hugging Face `map` runs in their workers:

    embedder = Embedder("out/pe_core_base_224")
    rows = embedder({"path": ["a.jpg", "s3://bucket/b.jpg"]})     # + "embedding", "error"
    dataset.map(embedder, batched=True)                           # Hugging Face: an "image" column

`embed_images` fills an index in this process; `pecore.embed_ray` fills one with Ray.
"""

import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pecore.bundle import Bundle
from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.image import ImageInput, decode
from pecore.image_files import left_out_note, survey_images
from pecore.image_formats import image_suffixes, kind_left_out
from pecore.index import to_stored
from pecore.index_writer import COMMIT_ROWS, ImageFile, IndexWriter

Skipped = tuple[str, str]
"""An image that could not be used, and why."""

AHEAD = 2
"""Images for each decoding thread that may wait, decoded, for inference; at 12 megapixels one being decoded takes 36
MB, one that waits its model input alone."""

T = TypeVar("T")


class Embedder:
    """Embeds batches of images: a picklable callable, batch in, batch out. Each process opens the bundle once, at its
    first batch.

    Args:
        bundle: folder that `pecore convert` wrote; each machine needs it there.
        weights, backend, compute, threads: as `PerceptionEncoder` takes them.
        decoders: threads that decode; one per core by default.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        weights: str | None = None,
        backend: str = "cpu",
        compute: str = "fp16",
        threads: int | None = None,
        decoders: int | None = None,
    ) -> None:
        self.bundle, self.decoders = str(bundle), decoders
        self._options: dict[str, Any] = {"weights": weights, "backend": backend, "compute": compute, "threads": threads}
        self._encoder: PerceptionEncoder | None = None

    @property
    def encoder(self) -> PerceptionEncoder:
        """The encoder, opened when first asked for."""
        if self._encoder is None:
            self._encoder = PerceptionEncoder(self.bundle, **self._options)
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_encoder": None}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of n rows with two columns more.

        Args:
            batch: columns of n values. `image` is embedded where there is one: Pillow images, uint8 RGB arrays, a
                file's bytes, or a dict with `bytes` or `path`, as Hugging Face stores them. Otherwise `path`: files,
                or addresses that fsspec reads.

        Returns:
            The batch, with `embedding` `[n, dim]` float32, L2-normalised and zero for what could not be used, and
            `error`, `[n]` str: why not, or empty.

        Raises:
            InputError: neither column, or a bundle that can't be used.
        """
        column = next((name for name in ("image", "path") if name in batch), None)
        if column is None:
            raise InputError(f"a batch needs a column image or path, not only {', '.join(batch) or 'none'}")
        items = list(batch[column])
        embeddings, errors = np.zeros((len(items), self.encoder.dim), np.float32), [""] * len(items)
        for row, (_, result) in enumerate(embedded(self.encoder, items, read_image, self.decoders)):
            if isinstance(result, InputError):
                errors[row] = str(result)
            else:
                embeddings[row] = result
        return {**batch, "embedding": embeddings, "error": np.array(errors, dtype=object)}


def embedded(
    encoder: PerceptionEncoder,
    items: Iterable[T],
    read: Callable[[T], ImageInput],
    decoders: int | None = None,
) -> Iterator[tuple[T, np.ndarray | InputError]]:
    """Each item, in order, with its embedding `[dim]`, or the InputError that reading it raised.

    Images are read and prepared in `decoders` threads (one per core by default), a few ahead of inference, which runs
    here in batches of what the graph takes.
    """

    def prepare(item: T) -> np.ndarray | InputError:
        try:
            return encoder.prepare(read(item))
        except InputError as error:
            return error

    workers = decoders or os.cpu_count() or 1
    waiting: list[tuple[T, np.ndarray | InputError]] = []
    for item, prepared in ahead(prepare, items, workers, AHEAD * workers + encoder.batch):
        waiting.append((item, prepared))
        if sum(not isinstance(p, InputError) for _, p in waiting) == encoder.batch:
            yield from _inferred(encoder, waiting)
            waiting = []
    yield from _inferred(encoder, waiting)


def _inferred(
    encoder: PerceptionEncoder, waiting: Sequence[tuple[T, np.ndarray | InputError]]
) -> Iterator[tuple[T, np.ndarray | InputError]]:
    pixels = [prepared for _, prepared in waiting if not isinstance(prepared, InputError)]
    rows = iter(encoder.embed_batch(np.concatenate(pixels)) if pixels else ())
    for item, prepared in waiting:
        yield item, prepared if isinstance(prepared, InputError) else next(rows)


def ahead(function: Callable[[T], Any], items: Iterable[T], workers: int, depth: int) -> Iterator[tuple[T, Any]]:
    """Each item, in order, with what `function` makes of it: in threads, at most `depth` items ahead of the reader."""
    source = iter(items)
    with ThreadPoolExecutor(workers, "decode") as pool:
        queue: deque[tuple[T, Future[Any]]] = deque()
        try:
            for item in islice(source, depth):
                queue.append((item, pool.submit(function, item)))
            while queue:
                item, future = queue.popleft()
                result = future.result()
                for following in islice(source, 1):
                    queue.append((following, pool.submit(function, following)))
                yield item, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_image(item: Any) -> ImageInput:
    """What `PerceptionEncoder` takes, from an image, a file's bytes or path, an address, or a dict of one of them.

    Raises:
        InputError: an address that can't be read, or bytes that are no image, by name.
    """
    name = "the image"
    if isinstance(item, Mapping):
        name = str(item.get("path") or name)
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if isinstance(item, str) and "://" in item:
        name, item = item, read_address(item)
    return decode(io.BytesIO(item), name) if isinstance(item, bytes | bytearray) else item


def read_address(address: str) -> bytes:
    """A file's bytes, through fsspec."""
    with remote(address) as (system, path):
        return bytes(system.cat_file(path))


@contextmanager
def remote(address: str) -> Iterator[tuple[Any, str]]:
    """An address's file system and its path there; what goes wrong is an InputError that names the address."""
    import fsspec

    try:
        yield fsspec.core.url_to_fs(address)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is no {address}: check the address") from error
    except ImportError as error:
        raise InputError(f"{address} can't be reached: {error}") from error
    except Exception as error:  # each protocol has exceptions of its own
        raise InputError(f"{address} can't be read ({error}): check the address and the credentials") from error


@dataclass(frozen=True)
class Listing:
    """The images of some places, and how many of each kind are left out, as in `pecore.image_files.Survey`."""

    images: list[ImageFile]
    left_out: Mapping[str, int]


def list_images(places: Sequence[str]) -> Listing:
    """Image files as they are named, and every image under folders and addresses, in the order of their names, each
    once.

    Raises:
        InputError: a place that does not exist, or one without any image.
    """
    found: dict[str, ImageFile] = {}
    left_out: Counter[str] = Counter()
    for place in places:
        listed = _remote_images(place) if "://" in place else _local_images(place)
        left_out.update(listed.left_out)
        found |= {image.path: image for image in listed.images if image.path not in found}
    return Listing(list(found.values()), left_out)


def _local_images(place: str) -> Listing:
    survey, images = survey_images([Path(place)]), []
    for path in survey.images:
        try:
            status = path.stat()
            images.append(ImageFile(str(path), status.st_size, status.st_mtime_ns))
        except OSError:  # whoever opens the image says why
            images.append(ImageFile(str(path), 0, 0))
    return Listing(images, survey.left_out)


def _remote_images(address: str) -> Listing:
    """By their endings alone: each content that is looked at costs a request."""
    with remote(address) as (system, root):
        system.invalidate_cache()
        files, images = system.find(root, detail=True), []
        left_out: Counter[str] = Counter()
        for path in sorted(files):
            suffix = Path(path).suffix.lower()
            hidden = any(part.startswith(".") for part in path[len(root) :].split("/"))
            if path == root.rstrip("/") or (suffix in image_suffixes() and not hidden):
                image = ImageFile(_address(address, path), int(files[path].get("size") or 0), _time_ns(files[path]))
                images.append(image)
            elif not hidden and (kind := kind_left_out(suffix)):
                left_out[kind] += 1
    if not images:
        note = f" ({said})" if (said := left_out_note(left_out)) else ""
        raise InputError(f"there is no image file in {address}{note}; name a folder with photographs (JPEG, PNG, ...)")
    return Listing(images, left_out)


def _address(listed: str, path: str) -> str:
    """A file's address, from its path in the file system of the address that was listed."""
    scheme = listed.partition("://")[0]
    return f"{scheme}://{path if scheme == 'file' else path.lstrip('/')}"


def _time_ns(about: Mapping[str, Any]) -> int:
    """A remote file's time of modification; 0 where its system keeps none, and then the size alone tells a change."""
    known = next((about[key] for key in ("LastModified", "last_modified", "mtime", "updated") if about.get(key)), None)
    if known is None:
        return 0
    seconds = known.timestamp() if hasattr(known, "timestamp") else float(known)
    return round(seconds * 1000) * 10**6


@dataclass(frozen=True)
class Updated:
    """What a run did to an index: rows that were there and have not changed, rows it added, rows of vanished images
    that it removed, and the images it skipped."""

    reused: int
    added: int
    pruned: int
    skipped: list[Skipped]


Progress = Callable[[int, Skipped | None], None]
"""Called with how many images are done, and the one that was skipped just now."""

Engine = Callable[[Sequence[ImageFile]], tuple[int, list[Skipped]]]
"""Embeds images into an index: how many rows that gave, and the images that were skipped."""


def update_index(
    images: Sequence[ImageFile], writer: IndexWriter, engine: Engine, vanished_from: Sequence[str] = ()
) -> Updated:
    """Bring an index up to date with `images`: those that are new or have changed are embedded.

    Args:
        vanished_from: places that `images` are from; rows of images that are there no more are removed.

    Raises:
        InputError: no image could be used, or the index can't be written.
    """
    known = writer.known(images)
    added, skipped = engine([image for image, there in zip(images, known) if not there])
    if len(skipped) == len(images):
        raise InputError(f"none of the {len(images)} images could be used; the first: {skipped[0][1]}")
    listed = {to_stored(image.path) for image in images}
    places = [place if "://" in place else str(Path(place)) for place in vanished_from]
    pruned = [path for path in writer.paths_below(places) if path not in listed] if places else []
    writer.remove(pruned)
    writer.tidy()
    return Updated(int(known.sum()), added, len(pruned), skipped)


def embed_images(
    images: Sequence[ImageFile],
    encoder: PerceptionEncoder,
    writer: IndexWriter,
    progress: Progress = lambda done, skipped: None,
    commit_rows: int = COMMIT_ROWS,
) -> tuple[int, list[Skipped]]:
    """Embed images into an index, in this process: an `Engine` once the other arguments are given.

    Args:
        commit_rows: what a stop loses at most. Ctrl-C loses none.
    """
    waiting: list[tuple[ImageFile, np.ndarray]] = []
    skipped: list[Skipped] = []
    added = 0

    def commit() -> None:
        nonlocal added
        if waiting:
            writer.add([image for image, _ in waiting], np.stack([embedding for _, embedding in waiting]))
            added += len(waiting)
            waiting.clear()

    try:
        results = embedded(encoder, images, lambda image: read_image(image.path))
        for done, (image, result) in enumerate(results, start=1):
            problem = None
            if isinstance(result, InputError):
                problem = (image.path, str(result))
                skipped.append(problem)
            else:
                waiting.append((image, result))
            if len(waiting) == commit_rows:
                commit()
            progress(done, problem)
    except KeyboardInterrupt:
        commit()
        raise
    commit()
    return added, skipped


def about_rows(encoder: PerceptionEncoder) -> dict[str, Any]:
    """What an index says of what its rows are made with."""
    bundle: Bundle = encoder.bundle
    return {
        "bundle": str(bundle.folder.absolute()),
        "file": encoder.file.name,
        "backend": encoder.backend,
        "space": bundle.space,
    }
