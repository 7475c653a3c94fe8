"""PE-Core's text tower, as open_clip has it: its weights from the hub, a local file, or a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pecore.bundle import Origin
from pecore.convert.checkpoint import CLIP_FILE, Kind, Log, as_packaged, as_stored, float32, from_hub, weights_of
from pecore.convert.fingerprint import fingerprint
from pecore.convert.hub import fetch
from pecore.convert.packaged import checkpoint_file, open_clip_config
from pecore.convert.state_dict import read_tower
from pecore.convert.synthetic import BIAS, LOGIT_SCALE, NORM_SPREAD, QK_GAIN, keeper, normal
from pecore.errors import InputError
from pecore.tokenizer import ClipTokenizer
from pecore.variants import Variant

SHOWN = 3  # differing keys named in an error
OUTSIDE = frozenset({"positional_embedding", "text_projection"})  # Meta's text keys at the top, besides the prefixes
PREFIXES = ("token_embedding.", "transformer.", "ln_final.")
EMBED = 0.3  # standard deviation of synthetic token and position tables
GAINS = {"attn.out_proj.weight": 0.7, "mlp.c_proj.weight": 0.9}  # of synthetic branches, as in `synthetic.GAINS`


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower, in open_clip's words; `dataclasses.replace(config, layers=2)` is a small one."""

    context_length: int
    vocab_size: int
    width: int
    heads: int
    layers: int
    output_dim: int


@dataclass(frozen=True)
class TextWeights:
    """Checked weights of one text tower and where they are from; the fields are `checkpoint.Weights`'s.

    `state_dict` has open_clip's keys without `text.`, float32. `fingerprint` is of the vision tower in the same file
    (`convert.fingerprint`): the one that these texts belong to; None for synthetic ones, which the seed tells apart.
    """

    state_dict: Mapping[str, Tensor]
    kind: Kind
    source: str
    file: Path | None
    sha256: str | None
    logit_scale: float
    fingerprint: str | None
    seed: int | None = None
    taken: str = ""
    averaged: bool = False

    @property
    def synthetic(self) -> bool:
        return self.kind == "synthetic"

    def origin(self) -> Origin:
        """Where the weights are from, as a manifest keeps it."""
        names = ("kind", "source", "synthetic", "sha256", "seed", "fingerprint", "taken")
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        return Origin(**kept, file=self.file.name if self.file else None)


@lru_cache
def text_config(variant: Variant) -> TextConfig:
    """The sizes of the variant's text tower.

    Raises:
        InputError: it has none.
    """
    if not variant.open_clip_name:
        raise InputError(f"{variant.size} has no text tower: the core towers have, such as B16")
    config = open_clip_config(variant)
    return TextConfig(**config["text_cfg"], output_dim=config["embed_dim"])


def load_text(
    variant: Variant,
    source: str | Path = "hub",
    *,
    seed: int = 0,
    config: TextConfig | None = None,
    ema: bool = True,
    log: Log = lambda line: None,
) -> TextWeights:
    """Text weights for `variant` from "hub", from "synthetic" (`seed`), or from a file with both towers, by its path.

    For a `packaged` variant "hub" is this package's own file. The image size that the vision tower's positions are for
    does not matter. `config` is the variant's own where None; `ema` and `log` as `checkpoint.load` takes them.

    Raises:
        InputError: whatever can't be fetched, read or trusted, holds no text tower, or does not fit `variant`.
    """
    config = config or text_config(variant)
    if source == "synthetic":
        said = f"synthetic, seed {seed}"
        return TextWeights(synthetic_text(config, seed), "synthetic", said, None, None, LOGIT_SCALE, None, seed)
    if source == "hub":
        path = checkpoint_file(variant) if variant.packaged else fetch(variant.clip_repo, CLIP_FILE, log)
    else:
        path = Path(source)
    file = read_tower(path, ema)
    both = weights_of(as_stored(variant, file), file)
    if source == "hub":
        both = as_packaged(both) if variant.packaged else from_hub(both, variant.clip_repo)
    elif both.taken:
        log(f"of {path}: {both.taken}")
    if not both.has_text or both.logit_scale is None:
        raise InputError(
            f"{path} holds a vision tower alone: pass {CLIP_FILE} of {variant.clip_repo}, or Meta's .pt, which have "
            "the text tower of the same checkpoint as well"
        )
    return TextWeights(
        state_dict=_text_tensors(file.tensors, config, variant, path),
        kind=both.kind,
        source=both.source,
        file=both.file,
        sha256=both.sha256,
        logit_scale=both.logit_scale,
        fingerprint=fingerprint(both.state_dict),
        taken=both.taken,
        averaged=both.averaged,
    )


def build_text_tower(config: TextConfig, state_dict: Mapping[str, Tensor]) -> Any:
    """open_clip's own `TextTransformer` with these weights, in eval mode; it shares their memory.

    Maps ids `[n, context_length]` int64 to embeddings `[n, output_dim]` *before* L2 normalisation.
    """
    tower = _create(config)
    tower.load_state_dict(state_dict, strict=True, assign=True)
    tower.attn_mask = tower.build_causal_mask()  # no part of a state dict
    return tower.eval().requires_grad_(False)


@torch.no_grad()
def encode_ids(tower: Any, ids: Tensor) -> Tensor:
    """L2-normalised embeddings `[n, output_dim]` of ids `[n, context_length]`; open_clip's `encode_text`, less work."""
    return torch.nn.functional.normalize(pooled_text(tower, ids), dim=-1)


def pooled_text(tower: Any, ids: Tensor) -> Tensor:
    """Embeddings `[n, output_dim]` *before* normalisation of ids `[n, context_length]`, as the tower's own forward.

    The sequence is cut after the last end-of-text token of the batch. The mask is causal and pooling is at that token,
    so nothing of what is left out, padding alone, could have reached the result.
    """
    ends = ids.argmax(-1)  # the end-of-text id is the highest
    count = int(ends.max()) + 1
    x = tower.token_embedding(ids[:, :count]) + tower.positional_embedding[:count]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:count, :count])
    pooled = tower.ln_final(x[torch.arange(len(ids)), ends])
    return pooled @ tower.text_projection


def token_ids(tokenizer: ClipTokenizer, texts: Sequence[str], context_length: int) -> Tensor:
    """Ids `[n, context_length]` int64, as `ClipTokenizer` makes them."""
    return torch.from_numpy(tokenizer(texts, context_length))


def synthetic_text(config: TextConfig, seed: int) -> dict[str, Tensor]:
    """State dict of a text tower drawn from `seed`, every tensor away from its neutral value, as `synthetic.py` does
    for the vision tower (without massive activations)."""
    shapes = _shapes(config)
    keep = keeper(shapes)
    return {key: keep(key, _synthetic(key, shape, config, seed)) for key, shape in shapes.items()}


def _synthetic(key: str, shape: tuple[int, ...], config: TextConfig, seed: int) -> Tensor:
    z = normal(f"text.{key}", shape, seed)
    if key.endswith("embedding.weight") or key == "positional_embedding":
        return z * EMBED
    if key.endswith("bias"):
        return z * BIAS
    if len(shape) == 1:
        return 1 + z * NORM_SPREAD
    fan_in = shape[0] if key == "text_projection" else shape[1]  # the projection is stored transposed
    z *= GAINS.get(".".join(key.split(".")[-3:]), 1.0) / math.sqrt(fan_in)
    if key.endswith("in_proj_weight"):
        z[: 2 * config.width] *= QK_GAIN
    return z


@lru_cache(maxsize=32)
def _shapes(config: TextConfig) -> Mapping[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in _create(config).state_dict().items()}


def _create(config: TextConfig) -> Any:
    from open_clip.transformer import TextTransformer

    with torch.device("meta"):
        return TextTransformer(**asdict(config))


def _text_tensors(tensors: Mapping[str, Tensor], config: TextConfig, variant: Variant, path: Path) -> dict[str, Tensor]:
    """The text tower's tensors under open_clip's keys, which are Meta's with `text.` before them."""
    if any(key.startswith("text.") for key in tensors):
        found = {k.removeprefix("text."): t for k, t in tensors.items() if k.startswith("text.")}
    else:
        found = {k: t for k, t in tensors.items() if k in OUTSIDE or k.startswith(PREFIXES)}
    found.pop("attn_mask", None)  # a constant, which some files hold
    expected = _shapes(config)
    differences = [
        f"{key} is {list(found[key].shape) if key in found else 'missing'} instead of {list(shape)}"
        for key, shape in expected.items()
        if key not in found or tuple(found[key].shape) != shape
    ] + [f"{key} is unknown" for key in found if key not in expected]
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise InputError(
            f"the text tower in {path} does not fit {variant.size} ({'; '.join(differences[:SHOWN])}{more}): pass "
            f"PE-Core {variant.size}'s checkpoint"
        )
    return float32(found, path)
