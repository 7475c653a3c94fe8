"""Towers in PyTorch from whatever names one: a size, a bundle, or a file of a bundle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pecore.bundle import MANIFEST, Bundle, open_bundle, require_same_checkpoint
from pecore.convert.checkpoint import Log, Weights, load
from pecore.convert.text_tower import build_text_tower, encode_ids, load_text, text_config, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.convert.towers import build_tower
from pecore.errors import InputError
from pecore.evaluate import Candidate
from pecore.variants import Variant, find

BATCH = 32
"""Texts that go through PyTorch at once."""
NAMED = {"hub": "hub", "packaged": "hub", "synthetic": "synthetic"}
"""Kind of weights -> what `checkpoint.load` is given for them; others are files."""


@dataclass(frozen=True)
class WeightsSource:
    """Where weights come from: `hub`, `synthetic` (with `seed` and `amplitude`), or a checkpoint's path, of which
    averaged weights are taken where `ema` and it has them."""

    origin: str | Path = "hub"
    seed: int = 0
    amplitude: float = 400.0
    ema: bool = True

    def load(self, variant: Variant, log: Log = lambda line: None) -> Weights:
        """As `pecore.convert.checkpoint.load`, which raises InputError."""
        return load(variant, self.origin, seed=self.seed, amplitude=self.amplitude, ema=self.ema, log=log)


@dataclass(frozen=True)
class LoadedTower:
    """timm's tower, its variant and weights, and the bundle that named it; `bundle` is None where a size did."""

    variant: Variant
    weights: Weights
    model: Any
    bundle: Bundle | None = None


def load_tower(what: str | Path, source: WeightsSource = WeightsSource()) -> LoadedTower:
    """The tower that `what` names: a bundle's folder, a file in one, or a size such as B16.

    Args:
        source: of a size's weights; of a bundle's only a checkpoint's path counts, of what it was made from.

    Raises:
        InputError: it names none, or the weights are not available or are others.
    """
    path = Path(what)
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file() and path.exists():
        bundle = open_bundle(folder)
        checkpoint = source.origin if isinstance(source.origin, Path) else None
        weights = bundle_weights(bundle, checkpoint)
        return LoadedTower(bundle.variant, weights, build_tower(bundle.variant, weights.state_dict), bundle)
    try:
        variant = find(str(what))
    except InputError as error:
        raise InputError(f"{what} is neither a bundle's folder nor a size ({error})") from error
    weights = source.load(variant)
    return LoadedTower(variant, weights, build_tower(variant, weights.state_dict))


def bundle_weights(bundle: Bundle, checkpoint: Path | None = None) -> Weights:
    """The vision weights that `bundle` was made from: of `checkpoint`, or from where its manifest says they were.

    Synthetic ones are made again from their seed. Whatever the file's format, its tensors have to have the bundle's
    fingerprint, so any of the three forms of one checkpoint will do.

    Raises:
        InputError: they are not available, or are others.
    """
    about = bundle.vision.weights
    origin: str | Path = NAMED.get(about.kind) or Path(about.source)
    again: dict[str, Any] = {}
    if about.synthetic and not checkpoint:
        again = {"seed": about.seed, "amplitude": about.amplitude}
    weights = load(bundle.variant, checkpoint or origin, **again)
    if weights.averaged and about.fingerprint != weights.origin().fingerprint:  # made with --no-ema, it may be
        weights = load(bundle.variant, checkpoint or origin, ema=False)
    if about.fingerprint != weights.origin().fingerprint:
        raise InputError(f"{weights.source} is not what {bundle.folder} was made from, {about.source}: give that one")
    return weights


def bundle_tower(bundle: Bundle, checkpoint: Path | None = None) -> Any:
    """timm's tower with `bundle_weights`, which raises as that does."""
    return build_tower(bundle.variant, bundle_weights(bundle, checkpoint).state_dict)


def pytorch_candidate(bundle: Bundle, checkpoint: Path | None = None) -> Candidate:
    """timm's tower in float32 with `bundle_weights`, which raises as that does, for `pecore.evaluate`."""
    model = bundle_tower(bundle, checkpoint)

    def embed(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            embedding: np.ndarray = torch.nn.functional.normalize(model(torch.from_numpy(pixels)), dim=-1)[0].numpy()
        return embedding

    return Candidate("PyTorch fp32", "PyTorch", embed)


def text_encoder(bundle: Bundle, checkpoint: Path | None = None) -> Callable[[Sequence[str]], np.ndarray]:
    """PyTorch's text tower, for a bundle without a text `.tflite`: texts to `[n, dim]` float32, L2-normalised.

    Args:
        checkpoint: a file with both towers, for bundles made from one with the vision tower alone.

    Raises:
        InputError: no text tower is available, or it is another checkpoint's.
    """
    variant, about = bundle.variant, bundle.vision.weights
    source = checkpoint or _text_source(bundle)
    weights = load_text(variant, source, seed=about.seed or 0)
    if weights.averaged and weights.fingerprint != about.fingerprint:
        weights = load_text(variant, source, ema=False)
    require_same_checkpoint(weights.origin(), variant.size, about, variant.size, str(bundle.folder))
    config, tokenizer = text_config(variant), clip_tokenizer()
    tower = build_text_tower(config, weights.state_dict)

    def encode(texts: Sequence[str]) -> np.ndarray:
        batches = (texts[i : i + BATCH] for i in range(0, len(texts), BATCH))
        rows = [encode_ids(tower, token_ids(tokenizer, batch, config.context_length)) for batch in batches]
        return torch.cat(rows).numpy()

    return encode


def _text_source(bundle: Bundle) -> str | Path:
    """Where the text weights that belong to a bundle's vision weights are."""
    about = bundle.vision.weights
    if about.kind in NAMED:
        return NAMED[about.kind]
    path = Path(about.source)
    if not path.exists():
        raise InputError(
            f"{bundle.folder} has no text .tflite, and the checkpoint it was made from, {path}, is not there; "
            "give a file with its text tower: --text-checkpoint FILE"
        )
    return path
