"""Text to embeddings with a bundle's text tower."""

from collections.abc import Callable, Sequence

import numpy as np

from pecore.bundle import TOKENIZER_FILE, Bundle
from pecore.errors import InputError
from pecore.runtime import Backend, open_model
from pecore.tokenizer import read_tokenizer

TextEncoder = Callable[[Sequence[str]], np.ndarray]
"""Texts to `[n, dim]` float32, L2-normalised as far as the tower does it."""


def open_text_encoder(bundle: Bundle, backend: Backend = "cpu", threads: int | None = None) -> TextEncoder:
    """The bundle's text tower.

    Args:
        backend: of the `.tflite`; the GPU is not asked to take a text tower, so `gpu` means the CPU here.

    Raises:
        InputError: the bundle has none, or it can't be opened.
    """
    files = bundle.files("text")
    if not files:
        size = bundle.variant.size
        raise InputError(
            f"{bundle.folder} has no text tower; `pecore convert --size {size} --tower text` adds one, or pass "
            "text_encoder=pecore.convert.load.text_encoder(bundle), which needs PyTorch"
        )
    model = open_model(next(iter(files.values())), backend="cpu" if backend == "gpu" else backend, threads=threads)
    tokenizer = read_tokenizer(bundle.folder / TOKENIZER_FILE)
    ((name, spec),) = model.inputs.items()

    def encode(texts: Sequence[str]) -> np.ndarray:
        ids = tokenizer(texts, spec.shape[-1]).astype(spec.dtype)
        return np.concatenate([next(iter(model.run({name: row[None]}).values())) for row in ids])

    return encode
