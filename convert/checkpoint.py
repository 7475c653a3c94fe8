"""Where weights come from: the hub, a local file, or a seed. After `load` there is one code path for all of them.

Local files are told apart by their keys, never by their names:

| kind      | what                                                    | vision keys             | text keys |
|-----------|---------------------------------------------------------|-------------------------|-----------|
| timm      | the vision tower alone, `model.safetensors`             | `blocks.0.attn...`      | none      |
| open_clip | both towers, `open_clip_model.safetensors`              | `visual.trunk.blocks.`  | `text.`   |
| meta      | Meta's original `.pt` (both towers, or the vision one)  | `visual.transformer...` | no prefix |

What a training script saved around them, in names or in keys, comes off (`state_dict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pecore.bundle import Origin
from pecore.convert import hub
from pecore.convert.fingerprint import fingerprint
from pecore.convert.packaged import checkpoint_file
from pecore.convert.state_dict import TowerFile, read_tower
from pecore.convert.synthetic import LOGIT_SCALE, synthetic_state_dict
from pecore.convert.timm_tower import hub_file, timm_state_dict
from pecore.convert.towers import tower_shapes
from pecore.errors import InputError
from pecore.variants import VARIANTS, Variant

Kind = Literal["hub", "packaged", "timm", "open_clip", "meta", "synthetic"]
Log = Callable[[str], None]

VISION_FILE = "model.safetensors"  # in `Variant.vision_repo`
CLIP_FILE = "open_clip_model.safetensors"  # in `Variant.clip_repo`
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 3  # differing keys named in an error


@dataclass(frozen=True)
class Weights:
    """Checked weights of one vision tower and where they are from.

    `state_dict` is timm's (float32, finite, every key and shape as `tower_shapes(variant)` says, or, for another image
    size than the trained one, with the positions of `variant.as_trained`). It may lie in the memory-mapped `file`, and
    is not to be written to.
    """

    state_dict: Mapping[str, torch.Tensor]
    kind: Kind
    source: str  # for people: repository and revision, path, or seed
    file: Path | None  # None for synthetic
    sha256: str | None  # of the file
    logit_scale: float | None  # exp'd; None where the source has only the vision tower
    has_text: bool  # the file holds the text tower as well, in the form `kind` names
    taken: str = ""  # where in the file, for people; empty where it holds nothing else
    averaged: bool = False  # the EMA of the weights, and the file holds the others as well
    seed: int | None = None  # of synthetic weights
    amplitude: float | None = None  # of synthetic weights

    @property
    def synthetic(self) -> bool:
        return self.kind == "synthetic"

    def origin(self) -> Origin:
        """Where the weights are from, as a manifest keeps it."""
        names = ("kind", "source", "synthetic", "sha256", "seed", "amplitude", "taken")
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        file = self.file.name if self.file else None
        return Origin(**kept, file=file, fingerprint=fingerprint(self.state_dict))


def load(
    variant: Variant,
    source: str | Path = "hub",
    *,
    seed: int = 0,
    amplitude: float = 400.0,
    ema: bool = True,
    log: Log = lambda line: None,
) -> Weights:
    """Weights for `variant` from "hub", from "synthetic" (`seed`, `amplitude`), or from a file, given by its path.

    For a `packaged` variant "hub" is this package's own file. A file called `hub` or `synthetic` is reached as a `Path`
    or as `./hub`. The hub gives the vision tower alone; the logit scale and the text tower are in `variant.clip_repo`.

    Args:
        ema: take averaged weights where a file holds both, as timm does.
        log: told what comes from the hub, and what of a file was taken.

    Raises:
        InputError: one sentence, for whatever can't be fetched, read or trusted, or does not fit `variant`.
    """
    if source == "synthetic":
        made = variant.as_trained if variant.is_pe else variant  # of the others positions are not interpolated here
        return Weights(
            state_dict=synthetic_state_dict(made, seed, amplitude),
            kind="synthetic",
            source=f"synthetic, seed {seed}, massive activations of {amplitude:g}",
            file=None,
            sha256=None,
            logit_scale=LOGIT_SCALE if variant.open_clip_name else None,
            has_text=False,
            seed=seed,
            amplitude=amplitude,
        )
    if source == "hub" and variant.packaged:
        return as_packaged(weights_of(variant, read_tower(checkpoint_file(variant), ema)))
    if source == "hub":
        repo, name = (variant.vision_repo, VISION_FILE) if variant.is_pe else hub_file(variant)
        return from_hub(weights_of(variant, read_tower(hub.fetch(repo, name, log), ema)), repo)
    weights = weights_of(variant, read_tower(Path(source), ema))
    if weights.taken:
        log(f"of {source}: {weights.taken}")
    return weights


def weights_of(variant: Variant, file: TowerFile) -> Weights:
    """The vision weights in a file that was read, checked against `variant`.

    Raises:
        InputError: they do not fit `variant`, or are not finite numbers.
    """
    if variant.is_pe:
        state_dict = _vision(file)
        _check_fit(variant, state_dict, file.path)
    else:
        state_dict = _other_tower(variant, file.tensors, file.path)
    text = any(key.startswith("text.") or key == "token_embedding.weight" for key in file.tensors)
    return Weights(
        state_dict=float32(state_dict, file.path),
        kind=file.form,
        source=str(file.path),
        file=file.files[0] if len(file.files) == 1 else file.path,
        sha256=file.sha256(),
        logit_scale=_logit_scale(file.tensors, file.path),
        has_text=text and file.form != "timm",
        taken=file.taken,
        averaged=file.averaged,
    )


def from_hub(weights: Weights, repo: str) -> Weights:
    """`weights`, read from a file that `hub.fetch` found, as the hub's.

    Raises:
        InputError: the file's bytes are not those that the hub names.
    """
    assert weights.file is not None
    assert weights.sha256 is not None
    hub.check_bytes(weights.file, weights.sha256)
    revision = weights.file.parent.name  # the cache keeps each file in a folder named by its commit
    return replace(weights, kind="hub", source=f"{repo}@{revision}")


def as_packaged(weights: Weights) -> Weights:
    """`weights`, read from `packaged.checkpoint_file`: the same wherever the package is installed."""
    assert weights.file is not None
    return replace(weights, kind="packaged", source=f"{weights.file.name} of pecore-litert")


def head_size(path: str | Path, ema: bool = True) -> int:
    """Outputs of the head in a local checkpoint of a tower, 0 where it has none: classes, of a fine-tuned one.

    Raises InputError as `load` does.
    """
    head = _vision(read_tower(Path(path), ema)).get("head.weight")
    return 0 if head is None or not head.ndim else head.shape[0]


def as_stored(variant: Variant, file: TowerFile) -> Variant:
    """`variant` for the image size that the positions in a file are for, whichever that is; for whom the text tower
    alone matters."""
    shapes = {key: tuple(tensor.shape) for key, tensor in _vision(file).items()}
    side = _image_size(variant, shapes)
    return replace(variant, image_size=side, trained_size=None) if side else variant


def float32(state_dict: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file as float32.

    Raises:
        InputError: one is not of floating-point numbers, or not all of them are finite.
    """
    return {key: _float32(key, tensor, path) for key, tensor in state_dict.items()}


def _other_tower(variant: Variant, tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a tower that is no PE, under timm's keys."""
    try:
        state_dict = timm_state_dict(variant, tensors)
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} holds no {variant.size} ({error}): pass its own checkpoint") from error
    expected = tower_shapes(variant)
    differences = [
        f"{key} is {list(state_dict[key].shape) if key in state_dict else 'missing'} instead of {list(shape)}"
        for key, shape in expected.items()
        if key not in state_dict or tuple(state_dict[key].shape) != shape
    ]
    differences += [f"{key} is unknown" for key in state_dict if key not in expected]
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise InputError(
            f"{path} does not fit {variant.size} ({'; '.join(differences[:SHOWN])}{more}): pass its own checkpoint, or "
            "another --timm-model or --pool"
        )
    return state_dict


def _vision(file: TowerFile) -> dict[str, torch.Tensor]:
    """The vision tower's tensors under timm's keys; a key that has no place there keeps its name, to be refused."""
    if file.form == "timm":
        return dict(file.tensors)
    if file.form == "open_clip":
        return {k.removeprefix("visual.trunk."): t for k, t in file.tensors.items() if k.startswith("visual.")}

    from timm.models.eva import checkpoint_filter_fn

    try:  # for Meta's keys it takes no look at the model, and resamples nothing
        return checkpoint_filter_fn(dict(file.tensors), torch.nn.Identity())
    except Exception as error:  # whatever timm's code stumbles over
        raise InputError(
            f"{file.path} has Meta's keys but not its shapes ({error!r}): pass a PE-Core checkpoint"
        ) from error


def _check_fit(variant: Variant, state_dict: Mapping[str, torch.Tensor], path: Path) -> None:
    found = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    expected = tower_shapes(variant.as_trained)
    if found in (expected, tower_shapes(variant)):
        return
    differences = [
        f"{key} is {list(found[key]) if key in found else 'missing'} instead of {list(shape)}"
        for key, shape in expected.items()
        if found.get(key) != shape
    ]
    differences += [f"{key} is unknown" for key in found if key not in expected]
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    own = f"PE-{variant.family.title()} {variant.size.removeprefix(f'{variant.family}-')}"
    fitting = next((other for other in VARIANTS if tower_shapes(other) == found and not other.packaged), None)
    hint = f"pass {own}'s checkpoint"
    if all(found.get(key) == shape for key, shape in expected.items()):
        hint = "these are extra keys, save the tower without them"
    elif fitting:
        flag = "--size" if fitting.family == "core" else "--variant"
        hint = f"it is {fitting.size}'s, try {flag} {fitting.size}"
    elif (side := _image_size(variant, found)) and found == tower_shapes(replace(variant, image_size=side)):
        hint = f"it is for images of {side} pixels, try --image-size {side}"
    elif found.keys() == expected.keys() and found.get("head.weight") != expected.get("head.weight"):
        hint = f"for another number of classes, try --timm-model {variant.timm_name.partition('.')[0]}"
    raise InputError(f"{path} does not fit {variant.size} ({'; '.join(differences[:SHOWN])}{more}): {hint}")


def _image_size(variant: Variant, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Pixels that a checkpoint's positions are for; 0 where they are no square."""
    positions = shapes.get("pos_embed", ())
    patches = max(0, positions[1] - variant.class_token) if len(positions) == 3 else 0
    grid = math.isqrt(patches)
    return grid * variant.patch if grid**2 == patches else 0


def _float32(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if tensor.dtype not in FLOATS:
        raise InputError(f"{path} has {tensor.dtype} in {key}: pass a checkpoint that was not quantized")
    tensor = tensor.float().contiguous()
    if not tensor.isfinite().all():
        raise InputError(f"{path} has NaN or infinity in {key}: download it again, or pass another checkpoint")
    return tensor


def _logit_scale(tensors: Mapping[str, torch.Tensor], path: Path) -> float | None:
    stored = tensors.get("logit_scale")  # its logarithm
    if stored is None:
        return None
    scale = float(stored.double().exp()) if stored.numel() == 1 and stored.dtype in FLOATS else math.nan
    if not math.isfinite(scale):
        what = stored.tolist() if stored.numel() <= SHOWN else f"of shape {list(stored.shape)}"
        raise InputError(f"{path} has an unusable logit_scale, {what}: pass another checkpoint")
    return scale
