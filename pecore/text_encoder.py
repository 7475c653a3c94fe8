"""Text to embeddings: with the text tower's `.tflite` where the bundle has one, else with PyTorch's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.fingerprint import check_partner
from pecore.bundle import Bundle
from pecore.errors import InputError
from pecore.runtime import Backend, open_model

TextEncoder = Callable[[Sequence[str]], np.ndarray]
"""Texts to `[n, dim]` float32, L2-normalised as far as the tower does it."""

BATCH = 32
"""Texts that go through PyTorch at once."""


def open_text_encoder(
    bundle: Bundle, backend: Backend = "cpu", threads: int | None = None, checkpoint: Path | None = None
) -> TextEncoder:
    """The bundle's text tower, or else PyTorch's with the weights the bundle was made from.

    Args:
        backend: of the `.tflite`; the GPU is not asked to take a text tower, so `gpu` means the CPU here.
        checkpoint: a file with both towers, for bundles made from one with the vision tower alone; it goes before the
            `.tflite`.

    Raises:
        InputError: neither is to be had, or the weights are another checkpoint's.
    """
    files = bundle.files("text")
    if files and checkpoint is None:
        return _litert(next(iter(files.values())), "cpu" if backend == "gpu" else backend, threads)
    return _pytorch(bundle, checkpoint)


def _litert(path: Path, backend: Backend, threads: int | None) -> TextEncoder:
    from convert.text_tower import tokenizer

    model = open_model(path, backend=backend, threads=threads)
    ((name, spec),) = model.inputs.items()
    tokenize = tokenizer(spec.shape[-1])

    def encode(texts: Sequence[str]) -> np.ndarray:
        ids = tokenize(texts).numpy().astype(spec.dtype)
        return np.concatenate([next(iter(model.run({name: row[None]}).values())) for row in ids])

    return encode


def _pytorch(bundle: Bundle, checkpoint: Path | None) -> TextEncoder:
    import torch

    from convert.text_tower import build_text_tower, encode_ids, load_text, text_config, tokenizer
    from convert.variants import Variant

    variant = Variant(**bundle.manifest["variant"])
    about = bundle.manifest["weights"]
    weights = load_text(variant, checkpoint or _source(about, bundle.folder), seed=about["seed"] or 0)
    check_partner(weights.about(), variant.size, about, variant.size, str(bundle.folder))
    config = text_config(variant)
    tower, tokenize = build_text_tower(config, weights.state_dict), tokenizer(config.context_length)

    def encode(texts: Sequence[str]) -> np.ndarray:
        batches = (texts[i : i + BATCH] for i in range(0, len(texts), BATCH))
        return torch.cat([encode_ids(tower, tokenize(batch)) for batch in batches]).numpy()

    return encode


def _source(about: dict[str, Any], folder: Path) -> str | Path:
    """Where the text weights that belong to a manifest's vision weights are."""
    if about["kind"] in ("synthetic", "hub"):
        return str(about["kind"])
    path = Path(about["source"])
    if not path.is_file():
        raise InputError(
            f"{folder} has no text .tflite, and the checkpoint it was made from, {path}, is not there; "
            "give a file with its text tower: --text-checkpoint FILE"
        )
    return path
