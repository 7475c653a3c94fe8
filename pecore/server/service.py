"""One bundle at work: what the endpoints compute, whatever shape they answer in."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np

from pecore.bundle import TOKENIZER_FILE
from pecore.encoder import PerceptionEncoder, Prediction, rank
from pecore.index import Found, Index
from pecore.labels import LabelSet
from pecore.server.errors import ApiError
from pecore.server.images import decode
from pecore.server.metrics import Metrics
from pecore.server.options import Limits
from pecore.server.work import Workers
from pecore.tokenizer import ClipTokenizer, read_tokenizer

T = TypeVar("T")


class Service:
    """An encoder with its queue.

    Args:
        encoder: opened; used from one thread of the service's own. Of a bundle that gives features or logits the page
            is all that is served.
        labels: for `classify`. index: for `search`. None where there is none.

    Raises:
        InputError: a text tower that can't be opened.
    """

    def __init__(
        self,
        encoder: PerceptionEncoder,
        limits: Limits,
        *,
        labels: LabelSet | None = None,
        index: Index | None = None,
    ) -> None:
        self.encoder, self.limits, self.labels, self.index = encoder, limits, labels, index
        self.bundle = encoder.bundle
        outputs = [output.name for output in self.bundle.vision.outputs]
        self.dim = encoder.dim if "embedding" in outputs else None
        self.model_id = f"PE-Core-{self.bundle.variant.size}-{encoder.image_size}"
        self.tokenizer: ClipTokenizer | None = None
        if self.bundle.files("text"):
            self.tokenizer = read_tokenizer(self.bundle.folder / TOKENIZER_FILE)
            encoder.embed_text("open the text tower before the first request asks for it")
        self.workers = Workers(limits.decoders, limits.queue)
        self.metrics = Metrics(self.workers)

    def check_model(self, asked: str | None) -> None:
        """Refuse another model than the one that is loaded; Roboflow's names may have the family before it.

        Raises:
            ApiError: 404, naming the loaded one.
        """
        if asked is not None and asked.removeprefix("perception_encoder/") != self.model_id:
            raise ApiError(404, "model_not_found", f"{ascii(asked)[:100]} is not loaded here: {self.model_id} is")

    def check_batch(self, items: int) -> None:
        """Raises ApiError, 400, for more images and texts in one request than are taken."""
        if items > self.limits.batch:
            message = (
                f"{items} images or texts in one request, and the limit is {self.limits.batch}: send them in parts"
            )
            raise ApiError(400, "batch_too_large", message)

    async def embed(self, items: Sequence[tuple[str, Any, str]]) -> np.ndarray:
        """Embeddings `[n, dim]` float32, L2-normalised.

        Args:
            items: the kind, `image` or `text`; the text, or what `images.decode` takes; and the field, for messages.

        Raises:
            ApiError: 400 for a bad image, 404 for texts without a text tower or a bundle without embeddings, 503 for a
                full queue.
        """
        if self.dim is None:
            gives = self.bundle.vision.output.name
            raise ApiError(404, "no_embedding", f"{self.model_id} gives {gives}, not embeddings: the page runs it")
        if self.tokenizer is None and any(kind == "text" for kind, _, _ in items):
            raise ApiError(404, "no_text_tower", f"{self.model_id} is loaded without its text tower: send images")
        async with self.workers.room_for(len(items)):
            return np.stack(await _all([self._embed(*item) for item in items]))

    async def _embed(self, kind: str, given: Any, where: str) -> np.ndarray:
        return await (self._embed_image(given, where) if kind == "image" else self._embed_text(given))

    async def _embed_image(self, reference: Any, where: str) -> np.ndarray:
        pixels = await self.workers.on_decoder(self._prepare, reference, where)
        with self.metrics.embedding("image"):
            return await self.workers.on_model(self.encoder.embed_pixels, pixels)

    def _prepare(self, reference: Any, where: str) -> np.ndarray:
        return self.encoder.prepare(decode(reference, where, self.limits.pixels))

    async def _embed_text(self, text: str) -> np.ndarray:
        with self.metrics.embedding("text"):
            return (await self.workers.on_model(self.encoder.embed_text, text))[0]

    def tokens(self, text: str) -> int:
        """Tokens of a text that the tower reads, start and end included."""
        section = self.bundle.manifest.text
        assert self.tokenizer and section  # noqa: PT018  `embed` refused otherwise
        return min(self.tokenizer.count(text), section.context_length)

    async def classify(self, image: Any, top: int) -> list[Prediction]:
        """The likeliest labels of an image.

        Raises:
            ApiError: as `embed`; 404 where the bundle has no labels.
        """
        if self.labels is None:
            raise ApiError(404, "no_labels", "the bundle has no labels: `pecore labels` adds them")
        (embedding,) = await self.embed([("image", image, "image")])
        return rank(embedding, self.labels, top)

    async def search(self, kind: str, given: Any, top: int) -> list[Found]:
        """The images of the index that are nearest to an image or a text.

        Raises:
            ApiError: as `embed`; 404 where no index is served.
        """
        if self.index is None:
            raise ApiError(404, "no_index", "no index is served here: start the server with --index")
        (embedding,) = await self.embed([(kind, given, kind)])
        return await self.workers.on_decoder(self.index.search, embedding, top)


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order; when one fails the others are dropped and its exception is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
