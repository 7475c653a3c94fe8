"""`PerceptionEncoder`: a bundle's towers from Python.

encoder = PerceptionEncoder("out/pe_core_base_224")
encoder.compare("photo.jpg", ["a cat", "a dog"])      # [0.21, 0.09]
encoder.classify("photo.jpg", top_k=3)                # after `pecore labels`
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from pecore.bundle import Bundle, open_bundle, require_same_checkpoint
from pecore.errors import GateError, InputError
from pecore.image import ImageInput, Layout, Resize, ValueRange, load_image, preprocess
from pecore.labels import LabelSet, load_label_set
from pecore.precision import Compute
from pecore.runtime import Backend, TensorSpec, open_model
from pecore.text import TextEncoder, open_text_encoder
from pecore.video import FRAMES, VideoInput, mean_embedding, video_frames

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Prediction:
    """One label for an image. `index` is its place in the label set; `probability` is the softmax over all labels."""

    label: str
    index: int
    cosine: float
    probability: float


class PerceptionEncoder:
    """Image and text embeddings, and what follows from them, with a converted bundle.

    Args:
        bundle: folder that `pecore convert` wrote.
        backend: `cpu`, `gpu` (ML Drift, strict, in this process) or `tensorflow` (the extra), as in
            `pecore.runtime.open_model`.
        weights: the precision that the file's weights are stored in, where the bundle holds several; fp16 by default.
        compute: what a GPU computes in, `fp16` or `fp32`; a CPU takes the graph's own types.
        threads: CPU threads; one per core by default.
        labels: folder with label embeddings; the bundle itself by default.
        text_encoder: texts to `[n, dim]`, for a bundle without a text `.tflite`:
            `pecore.convert.load.text_encoder(bundle)`, which needs the `convert` extra.
        weight_cache: folder that keeps the vision tower's packed weights, as `pecore.runtime.open_model` has it: a
            process after the first loads faster (docs/benchmarks.md). Backend cpu alone.

    Raises:
        InputError: no bundle, or a file or backend that can't be used. Labels and the text tower are opened when first
            asked for, and raise then.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        backend: Backend = "cpu",
        weights: str | None = None,
        compute: Compute = "fp16",
        threads: int | None = None,
        labels: str | os.PathLike[str] | None = None,
        text_encoder: TextEncoder | None = None,
        weight_cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
        self.backend = backend
        self.file = self.bundle.file(weights)
        cache = Path(weight_cache) if weight_cache else None
        self._model = open_model(self.file, backend, threads, compute, cache)
        self._input, self._resize = self.bundle.vision.input, Resize.of(self.bundle.vision.preprocessing)
        self._threads, self._labels_folder = threads, Path(labels) if labels else None
        self._given_text_encoder = text_encoder

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._spec("embedding").shape[-1]

    @property
    def image_size(self) -> int:
        """Side of the model's square input, in pixels."""
        return self.bundle.variant.image_size

    @cached_property
    def labels(self) -> LabelSet:
        """The labels to classify with; refused where the bundle gives no embedding, or they were made with another
        checkpoint."""
        self._spec("embedding")
        if self._labels_folder is None:
            return load_label_set(self.bundle.folder)
        labels, bundle = load_label_set(self._labels_folder), self.bundle
        require_same_checkpoint(
            labels.about.weights, labels.size, bundle.vision.weights, bundle.variant.size, str(bundle.folder)
        )
        return labels

    @cached_property
    def _text(self) -> TextEncoder:
        return self._given_text_encoder or open_text_encoder(self.bundle, self.backend, self._threads)

    def embed_image(self, image: ImageInput | Sequence[ImageInput]) -> np.ndarray:
        """Embeddings `[n, dim]` float32, L2-normalised, of one image (n = 1) or a list of them.

        An image is a Pillow image, a file's path, or a uint8 RGB array `[h, w, 3]`.

        Raises:
            InputError: an image that can't be used, by name.
            GateError: the backend's answer is no direction (NaN, infinity or zero).
        """
        return self._units(self._outputs(image, "embedding"))

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embedding `[dim]` of one prepared image."""
        return self.embed_batch(pixels)[0]

    def embed_batch(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings `[n, dim]` float32, L2-normalised, of n prepared images stacked: `batch` of them, or fewer."""
        return self._units(self.run(pixels))

    @property
    def batch(self) -> int:
        """Images that the graph takes at once."""
        return self._model.inputs["image"].shape[0]

    def _units(self, rows: np.ndarray) -> np.ndarray:
        return _unit(rows, f"{self.file.name} on {self.backend}")

    def features(self, image: ImageInput | Sequence[ImageInput]) -> np.ndarray:
        """Feature maps `[n, C, h, w]` float32, one vector a patch, of one image (n = 1) or a list of them.

        Raises:
            InputError: an image that can't be used, by name; a bundle that gives no features.
        """
        maps = self._outputs(image, "features")
        return maps if self._input.layout == "nchw" else maps.transpose(0, 3, 1, 2)

    def _outputs(self, image: ImageInput | Sequence[ImageInput], name: str) -> np.ndarray:
        """One output of the graph for each image, stacked."""
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        batch = self._model.inputs["image"].shape[0]
        rows = [np.zeros((0, *self._spec(name).shape[1:]), np.float32)]
        for start in range(0, len(images), batch):
            rows.append(self.run(np.concatenate([self.prepare(one) for one in images[start : start + batch]]), name))
        return np.concatenate(rows)

    def run(self, pixels: np.ndarray, name: str = "embedding") -> np.ndarray:
        """An output of the graph, as it gives it, for prepared images stacked: as many as its batch, or fewer.

        Raises:
            InputError: a bundle that gives no such output.
        """
        self._spec(name)
        batch = self._model.inputs["image"].shape[0]
        full = np.concatenate([pixels, *[pixels[-1:]] * (batch - len(pixels))])
        return self._model.run({"image": full})[name][: len(pixels)]

    def _spec(self, name: str) -> TensorSpec:
        if name not in self._model.outputs:
            raise InputError(
                f"{self.bundle.folder} gives {' and '.join(self._model.outputs)}, not {name}; "
                f"`pecore convert --output {name}` makes a bundle that does"
            )
        return self._model.outputs[name]

    def embed_video(self, video: VideoInput, frames: int | None = FRAMES) -> np.ndarray:
        """Embedding `[1, dim]` float32, L2-normalised, of a clip: the mean of its frames' embeddings, as PE has it.

        Args:
            video: a list of images, an animation's file (GIF, APNG, WebP), or a folder of frames.
            frames: evenly spaced ones that are used; None for all of them.

        Raises:
            InputError: what is neither, holds no frames, or one that can't be used.
        """
        return mean_embedding(self.embed_image(video_frames(video, frames)))[None]

    def prepare(self, image: ImageInput) -> np.ndarray:
        """The model's input for one image, in the layout and range that the bundle's graph takes."""
        layout, value_range = cast(Layout, self._input.layout), cast(ValueRange, self._input.range)
        return preprocess(image, self.image_size, layout=layout, value_range=value_range, resize=self._resize)

    def embed_text(self, text: str | Sequence[str]) -> np.ndarray:
        """Embeddings `[n, dim]` float32, L2-normalised, of one text (n = 1) or a list of them, used as they are.

        What is longer than the tower's context is cut, as open_clip does.

        Raises:
            InputError: what is not a str, by its type; no text tower.
        """
        texts: list[Any] = list(text) if isinstance(text, list | tuple) else [text]
        for one in texts:
            if not isinstance(one, str):
                raise InputError(f"a text must be a str, not {type(one).__name__}: {one!r}")
        return _unit(self._text(texts), "the text tower") if texts else np.zeros((0, self.dim), np.float32)

    def compare(
        self,
        subject: Any,
        prompt: Any,
        subject_type: Modality = "image",
        prompt_type: Modality = "text",
    ) -> list[float] | dict[Any, float]:
        """Cosines between one subject and each prompt, with the semantics of Roboflow's PerceptionEncoder.

        Args:
            subject: one image or one text.
            prompt: one of them, a list, or a dict of them.

        Returns:
            A list of cosines, or, for a dict, a dict with the same keys.

        Raises:
            ValueError: (as InputError) a type that is neither "image" nor "text", several subjects, or a subject or
                prompt that can't be used, by name.
        """
        if isinstance(subject, list | tuple | dict):
            raise InputError(f"compare takes one subject, not a {type(subject).__name__}: call it for each of them")
        prompts = list(prompt.values()) if isinstance(prompt, dict) else prompt
        subject_embedding = self._embed(subject, "subject_type", subject_type)[0]
        cosines = [float(c) for c in self._embed(prompts, "prompt_type", prompt_type) @ subject_embedding]
        return dict(zip(prompt, cosines)) if isinstance(prompt, dict) else cosines

    def _embed(self, what: Any, argument: str, modality: str) -> np.ndarray:
        if modality not in ("image", "text"):
            raise InputError(f"{argument} must be 'image' or 'text', not {modality!r}")
        return self.embed_image(what) if modality == "image" else self.embed_text(what)

    def classify(self, image: ImageInput, top_k: int = 5) -> list[Prediction]:
        """The `top_k` likeliest of the bundle's labels for one image, the likeliest first.

        Raises:
            InputError: no labels in the bundle, or an image that can't be used.
        """
        return rank(self.embed_image(load_image(image))[0], self.labels, top_k)


def rank(embedding: np.ndarray, labels: LabelSet, top_k: int = 5) -> list[Prediction]:
    """Labels for an image's embedding `[dim]`, by softmax(logit scale * cosines) over all of them, in float64.

    Of equal ones the first comes first.
    """
    if top_k < 1:
        raise InputError(f"the top {top_k} labels are none; ask for 1 or more")
    cosines = labels.embeddings.astype(np.float64) @ embedding.astype(np.float64)
    logits = labels.logit_scale * cosines
    odds = np.exp(logits - logits.max())
    probabilities = odds / odds.sum()
    best = np.argsort(-cosines, kind="stable")[:top_k]
    return [Prediction(labels.labels[i], int(i), float(cosines[i]), float(probabilities[i])) for i in best]


def _unit(rows: np.ndarray, where: str) -> np.ndarray:
    """Rows with norm 1 to float32's precision: an fp16 GPU is off by its own rounding."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable.all():
        raise GateError(f"{where} gave an embedding of norm {norms[~usable][0]:g}; `pecore localize` shows why")
    return rows / norms
