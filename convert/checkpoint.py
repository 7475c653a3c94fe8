"""Where weights come from: the hub, a local file, or a seed. After `load` there is one code path for all of them.

Local files are told apart by their keys, never by their names:

| kind      | what                                                    | vision keys             | text keys |
|-----------|---------------------------------------------------------|-------------------------|-----------|
| timm      | the vision tower alone, `model.safetensors`             | `blocks.0.attn...`      | none      |
| open_clip | both towers, `open_clip_model.safetensors`              | `visual.trunk.blocks.`  | `text.`   |
| meta      | Meta's original `.pt` (both towers, or the vision one)  | `visual.transformer...` | no prefix |

Nothing in a pickle is ever run: PyTorch files are read with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from pecore.bundle import Origin
from pecore.convert.fingerprint import fingerprint
from pecore.convert.synthetic import LOGIT_SCALE, synthetic_state_dict
from pecore.convert.timm_tower import hub_file, spread_state_dict, timm_state_dict
from pecore.convert.towers import tower_shapes
from pecore.errors import InputError
from pecore.variants import VARIANTS, Variant

Kind = Literal["hub", "timm", "open_clip", "meta", "synthetic"]

VISION_FILE = "model.safetensors"  # in `Variant.vision_repo`
CLIP_FILE = "open_clip_model.safetensors"  # in `Variant.clip_repo`
WRAPPERS = ("state_dict", "model", "module")  # keys under which training scripts save a state dict
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
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
    seed: int | None = None  # of synthetic weights
    amplitude: float | None = None  # of synthetic weights

    @property
    def synthetic(self) -> bool:
        return self.kind == "synthetic"

    def origin(self) -> Origin:
        """Where the weights are from, as a manifest keeps it."""
        names = ("kind", "source", "synthetic", "sha256", "seed", "amplitude")
        kept: dict[str, Any] = {name: getattr(self, name) for name in names}
        file = self.file.name if self.file else None
        return Origin(**kept, file=file, fingerprint=fingerprint(self.state_dict))


def load(variant: Variant, source: str | Path = "hub", *, seed: int = 0, amplitude: float = 400.0) -> Weights:
    """Weights for `variant` from "hub", from "synthetic" (`seed`, `amplitude`), or from a file, given by its path.

    A file called `hub` or `synthetic` is reached as a `Path` or as `./hub`. The hub gives the vision tower alone; the
    logit scale and the text tower are in `variant.clip_repo`: `fetch(variant.clip_repo, CLIP_FILE)`.

    Raises InputError, one sentence, for whatever can't be fetched, read or trusted, or does not fit `variant`.
    """
    if source == "synthetic":
        made = synthetic_state_dict(variant.as_trained, seed, amplitude) if variant.is_pe else None
        return Weights(
            state_dict=made or spread_state_dict(variant, seed, amplitude),
            kind="synthetic",
            source=f"synthetic, seed {seed}, massive activations of {amplitude:g}",
            file=None,
            sha256=None,
            logit_scale=LOGIT_SCALE if variant.open_clip_name else None,
            has_text=False,
            seed=seed,
            amplitude=amplitude,
        )
    if source == "hub":
        repo, name = (variant.vision_repo, VISION_FILE) if variant.is_pe else hub_file(variant)
        path = fetch(repo, name)
        revision = path.parent.name  # the cache keeps each file in a folder named by its commit
        return _load_file(variant, path, "hub", f"{repo}@{revision}")
    return _load_file(variant, Path(source), None, str(source))


def head_size(path: str | Path) -> int:
    """Outputs of the head in a local checkpoint of a tower, 0 where it has none: classes, of a fine-tuned one.

    Raises InputError as `load` does.
    """
    tensors = read_tensors(Path(path))
    if "visual.conv1.weight" in tensors or "conv1.weight" in tensors:
        tensors = _vision(tensors, "meta", Path(path))
    names = ("head.weight", "visual.head.weight", "visual.trunk.head.weight")
    head = next((tensors[name] for name in names if name in tensors), None)
    return 0 if head is None else head.shape[0]


def fetch(repo: str, filename: str) -> Path:
    """Path of `filename` from a hub repository, downloaded unless it is in the cache.

    Honours HF_HOME, HF_HUB_OFFLINE and the rest of huggingface_hub's settings. Raises InputError when it can't be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, filename))
    except Exception as error:  # offline, no such repository, disk full: its errors and its HTTP client's share no base
        raise InputError(
            f"{filename} of {repo} could not be fetched from the hub ({type(error).__name__}): check the network and "
            "HF_HUB_OFFLINE, pass a local file with --checkpoint FILE, or try the conversion with --weights synthetic"
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Key -> tensor, as stored, of a safetensors or PyTorch file, memory-mapped where the format allows.

    Unwraps {"state_dict": ...} and the like, and strips DistributedDataParallel's `module.`. Raises InputError for
    anything that is not a whole file of named tensors, and for pickled code, of which none is run.
    """
    start = _read_start(path)
    if start[8:9] == b"{":
        tensors = _read_safetensors(path)
    elif start.startswith((b"PK\x03\x04", b"\x80")):
        tensors = _read_pytorch(path, mmap=start.startswith(b"PK"))
    else:
        raise InputError(
            f"{path} is neither a safetensors nor a PyTorch file: pass a checkpoint in one of these formats"
        )
    for key in tensors:
        if key.startswith("module.") and key.removeprefix("module.") in tensors:
            raise InputError(f"{path} holds {key} with and without its module. prefix: pass a file that holds it once")
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}


def _read_start(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass the checkpoint file in it")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}: check the path") from error
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check its permissions") from error
    if not start:
        raise InputError(f"{path} is empty: download the checkpoint again")
    if start.startswith(LFS_POINTER):
        raise InputError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull where it was cloned")
    return start


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise InputError(f"{path} is a damaged or truncated safetensors file ({error}): download it again") from error


def _read_pytorch(path: Path, mmap: bool) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:  # warnings about pickle protocols
            # torch.load maps only what it opens itself, and takes a path that ends in .safetensors at its word.
            mmap = mmap and path.suffix != ".safetensors"
            loaded = torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is refused because it pickles {code[1] if code else 'more than tensors'}, and loading that could "
            "run code: pass safetensors or a file of tensors alone"
        ) from error
    except Exception as error:  # a damaged archive or pickle can make the reader raise nearly anything
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise InputError(f"{path} is damaged, truncated or no state dict ({reason}): download it again") from error
    while isinstance(loaded, Mapping) and (
        inner := next((loaded[k] for k in WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
    ):
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict: pass a file of named tensors")
    for key, value in loaded.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise InputError(
                f"{path} is not a state dict, its {key!r} is a {type(value).__name__}: pass a file of named tensors"
            )
    return dict(loaded)


def _load_file(variant: Variant, path: Path, kind: Literal["hub"] | None, source: str) -> Weights:
    tensors = read_tensors(path)
    form: Literal["timm", "open_clip", "meta"] = "timm"
    if variant.is_pe:
        form = _form(tensors, path)
        state_dict = _vision(tensors, form, path)
        _check_fit(variant, state_dict, path)
    else:
        state_dict = _other_tower(variant, tensors, path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(
        state_dict={key: _float32(key, tensor, path) for key, tensor in state_dict.items()},
        kind=kind or form,
        source=source,
        file=path,
        sha256=sha256,
        logit_scale=_logit_scale(tensors, path),
        has_text=any(key.startswith("text.") or key == "token_embedding.weight" for key in tensors),
    )


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


def _form(keys: Iterable[str], path: Path) -> Literal["timm", "open_clip", "meta"]:
    keys = list(keys)
    if any(key.startswith("visual.trunk.") for key in keys):
        return "open_clip"
    if "visual.conv1.weight" in keys or "conv1.weight" in keys:
        return "meta"
    if "patch_embed.proj.weight" in keys:
        return "timm"
    raise InputError(
        f"{path} holds no PE vision tower, its keys ({', '.join(keys[:SHOWN])}, ...) are neither timm's, open_clip's "
        "nor Meta's: pass one of theirs"
    )


def _vision(
    tensors: Mapping[str, torch.Tensor], form: Literal["timm", "open_clip", "meta"], path: Path
) -> dict[str, torch.Tensor]:
    """The vision tower's tensors under timm's keys; a key that has no place there keeps its name, to be refused."""
    if form == "timm":
        return dict(tensors)
    if form == "open_clip":
        return {k.removeprefix("visual.trunk."): t for k, t in tensors.items() if k.startswith("visual.")}

    from timm.models.eva import checkpoint_filter_fn

    try:  # for Meta's keys it takes no look at the model, and resamples nothing
        return checkpoint_filter_fn(dict(tensors), torch.nn.Identity())
    except (IndexError, RuntimeError) as error:
        raise InputError(f"{path} has Meta's keys but not its shapes ({error}): pass a PE-Core checkpoint") from error


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
    fitting = next((other for other in VARIANTS if tower_shapes(other) == found), None)
    hint = f"pass {own}'s checkpoint"
    if fitting:
        flag = "--size" if fitting.family == "core" else "--variant"
        hint = f"it is {fitting.size}'s, try {flag} {fitting.size}"
    elif (side := _image_size(variant, found)) and found == tower_shapes(replace(variant, image_size=side)):
        hint = f"it is for images of {side} pixels, try --image-size {side}"
    elif found.keys() == expected.keys() and found.get("head.weight") != expected.get("head.weight"):
        hint = f"for another number of classes, try --timm-model {variant.timm_name.partition('.')[0]}"
    raise InputError(f"{path} does not fit {variant.size} ({'; '.join(differences[:SHOWN])}{more}): {hint}")


def _image_size(variant: Variant, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Pixels that a checkpoint's positions are for; 0 where they are no square."""
    positions = shapes.get("pos_embed", (0, 0))
    patches = max(0, positions[1] - variant.class_token)
    grid = math.isqrt(patches)
    return grid * variant.patch if grid**2 == patches else 0


def _float32(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"{path} has {tensor.dtype} in {key}: pass a checkpoint that was not quantized")
    tensor = tensor.float().contiguous()
    if not tensor.isfinite().all():
        raise InputError(f"{path} has NaN or infinity in {key}: download it again, or pass another checkpoint")
    return tensor


def _logit_scale(tensors: Mapping[str, torch.Tensor], path: Path) -> float | None:
    stored = tensors.get("logit_scale")  # its logarithm
    if stored is None:
        return None
    if stored.numel() != 1 or not math.isfinite(scale := float(stored.double().exp())):
        raise InputError(f"{path} has an unusable logit_scale, {stored.tolist()}: pass another checkpoint")
    return scale
