"""The tower in whatever a training script saved around it: the mapping that holds it, and the prefix of its keys.

A tower is known by its keys, never by the names that wrap it, so wrappers and prefixes of any name will do:
`{"epoch": 3, "model_state_dict": {"backbone.blocks.0...": ...}}`. It is taken where it is the only one. Of a tower with
and without averaging (EMA) the averaged one is taken, as timm does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pecore.convert.tensor_files import adapter, digest, read
from pecore.errors import InputError

Form = Literal["timm", "open_clip", "meta"]

ANCHORS: Mapping[Literal["timm", "meta"], Sequence[str]] = {
    "timm": ("patch_embed.proj.weight", "pos_embed"),
    "meta": ("conv1.weight", "ln_pre.weight"),
}
"""Keys that every vision tower has and no text tower."""

BLOCKS = {"timm": "blocks.", "meta": "transformer.resblocks."}
INNER = {"timm": ("open_clip", "visual.trunk."), "meta": ("meta", "visual.")}
"""What goes before a vision tower's keys where the text tower is beside it, and what that form is called."""

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""What PyTorch's own wrappers (DistributedDataParallel, compile, FSDP, ...) put into the keys, at any place."""

AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged)([._]|$)")
"""Names of weights averaged over training steps: `state_dict_ema`, `model_ema`, `ema_model.module.`"""

ADAPTED = re.compile(r"(^|\.)(lora_|hada_|lokr_|ia3_|boft_|oft_|vera_lambda|base_layer\.)")
"""In keys of low-rank adapters, alone or on a model."""

COUNTER = "n_averaged"  # beside the weights in torch.optim.swa_utils.AveragedModel
DEEPEST = 6  # mappings inside one another that are looked into
MOST = 20_000  # mappings looked at: an optimizer has one for each parameter
SHOWN = 3  # keys, or places, named in an error


@dataclass(frozen=True)
class TowerFile:
    """A vision tower, and what belongs to it, in a checkpoint.

    tensors: as stored, under the keys of `form`: of a file with both towers all of them. files: it was read from.
    taken: where it was, for people; empty where the file holds nothing else. averaged: it is the EMA of the weights,
    and the file holds the others as well.
    """

    path: Path
    files: Sequence[Path]
    form: Form
    tensors: Mapping[str, Tensor]
    taken: str
    averaged: bool

    def sha256(self) -> str:
        """Of the file; of several shards, of their bytes in the order of their names."""
        return digest(self.files)


@dataclass(frozen=True)
class _Place:
    """Where a tower is: the mapping's name from the top (`state_dict_ema`, empty for the whole file) and the prefix."""

    mapping: str
    prefix: str
    form: Form
    tensors: Mapping[str, Tensor]
    left_out: Sequence[str]
    averaged: bool

    @property
    def name(self) -> str:
        """For people."""
        parts = [self.mapping] * bool(self.mapping) + [f"keys that begin with {self.prefix}"] * bool(self.prefix)
        return ", ".join(parts) or "the top of the file"


def read_tower(path: Path, ema: bool = True) -> TowerFile:
    """The vision tower in a checkpoint, and its text tower where it has one.

    Args:
        path: a file, a folder, or an index of shards, as `tensor_files.read` takes it.
        ema: take averaged weights where the file holds both, as timm does; where it holds one kind alone, that.

    Raises:
        InputError: it can't be read, holds no vision tower, or several and no way to choose; or not its plain values.
    """
    held, files = read(path)
    mappings = list(_mappings(held))
    _refuse_adapters(mappings, path)
    places = [place for name, mapping in mappings for place in _places(name, mapping, path)]
    if not places:
        raise InputError(_nothing(held, mappings, path))
    place, others = _choose(places, ema, path)
    for key, tensor in place.tensors.items():
        _check_plain(key, tensor, path)
    kept = f", and not {others}" if others else ""
    averaged = f"averaged (EMA) weights{kept}: --no-ema takes the others" if place.averaged and others else ""
    said = [f"took {place.name}"] * bool(place.mapping or place.prefix)
    said += [averaged or "averaged (EMA) weights, the only ones" if place.averaged else ""]
    said += [f"without EMA: {others} is left out" if others and not place.averaged else ""]
    if place.left_out:
        said.append(f"left out {_some(place.left_out)}")
    return TowerFile(path, files, place.form, place.tensors, "; ".join(filter(None, said)), bool(averaged))


def _mappings(held: Any, name: str = "", depth: int = 0, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every mapping in `held`, itself first, by the keys that lead to it; each object once."""
    seen = set() if seen is None else seen
    if not isinstance(held, Mapping) or id(held) in seen or depth > DEEPEST or len(seen) > MOST:
        return
    seen.add(id(held))
    yield name, held
    for key, value in held.items():
        if isinstance(value, Mapping):
            yield from _mappings(value, f"{name}.{key}" if name else str(key), depth + 1, seen)


def _refuse_adapters(mappings: Sequence[tuple[str, Mapping[Any, Any]]], path: Path) -> None:
    for _, mapping in mappings:
        if any(isinstance(key, str) and ADAPTED.search(key) for key in mapping):
            raise InputError(adapter(path))


def _places(name: str, mapping: Mapping[Any, Any], path: Path) -> list[_Place]:
    """The towers in one mapping."""
    tensors, others = _unwrapped(mapping, path)
    averaged = AVERAGED.search(name) is not None or COUNTER in tensors
    tensors.pop(COUNTER, None)
    found = [_form(make, prefix) for make, prefix in _towers(tensors)]
    places = []
    for form, prefix in found:
        inner = [p for _, p in found if p != prefix and p.startswith(prefix)]
        under = {key: t for key, t in tensors.items() if key.startswith(prefix) and not key.startswith(tuple(inner))}
        left = [key for key in tensors if not key.startswith(prefix)] + [k for k in others if k.startswith(prefix)]
        own = {key.removeprefix(prefix): tensor for key, tensor in under.items()}
        places.append(_Place(name, prefix, form, own, left, averaged or AVERAGED.search(prefix) is not None))
    return places


def _unwrapped(mapping: Mapping[Any, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a mapping, without what PyTorch's wrappers put into their keys, and the keys of what is none."""
    tensors: dict[str, Tensor] = {}
    others = []
    for key, value in mapping.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            others += [key] if isinstance(key, str) and not isinstance(value, Mapping) else []
            continue
        *parts, last = key.split(".")
        plain = ".".join([*(part for part in parts if part not in WRAPPERS), last])
        if plain in tensors:
            wrapper = next((part for part in parts if part in WRAPPERS), "module")
            raise InputError(
                f"{path} holds {key} with and without its {wrapper}. prefix: pass a file that holds it once"
                if plain != key
                else f"{path} holds {key} with and without a wrapper's prefix: pass a file that holds it once"
            )
        tensors[plain] = value
    return tensors, others


def _towers(keys: Iterable[str]) -> list[tuple[Literal["timm", "meta"], str]]:
    """(whose keys, prefix) of each vision tower among `keys`. One with all its anchors hides those with only some: the
    predictors and decoders that are trained beside it."""
    keys = list(keys)
    found: list[tuple[Literal["timm", "meta"], str, int]] = []
    for make, anchors in ANCHORS.items():
        prefixes: dict[str, int] = {}
        for anchor in anchors:
            for key in keys:
                if key == anchor or key.endswith(f".{anchor}"):
                    prefix = key.removesuffix(anchor)
                    prefixes[prefix] = prefixes.get(prefix, 0) + 1
        starts = {prefix for prefix in prefixes if any(key.startswith(prefix + BLOCKS[make]) for key in keys)}
        found += [(make, prefix, count) for prefix, count in prefixes.items() if prefix in starts]
    most = max((count for *_, count in found), default=0)
    return [(make, prefix) for make, prefix, count in found if count == most]


def _form(make: Literal["timm", "meta"], prefix: str) -> tuple[Form, str]:
    """What a tower's keys are called, and the prefix that is no part of that form."""
    form, inner = INNER[make]
    if prefix == inner or prefix.endswith(f".{inner}"):
        return form, prefix.removesuffix(inner)  # type: ignore[return-value]
    return make, prefix


def _choose(places: Sequence[_Place], ema: bool, path: Path) -> tuple[_Place, str]:
    """The one tower to take, and the name of what there is besides, averaged or not."""
    averaged, plain = ([p for p in places if p.averaged is wanted] for wanted in (True, False))
    if not ema and not plain:
        raise InputError(f"{path} holds averaged (EMA) weights alone, in {averaged[0].name}: leave out --no-ema")
    pool, others = (averaged, plain) if averaged and (ema or not plain) else (plain, averaged)
    distinct: list[_Place] = []
    for place in pool:
        if not any(_same(place.tensors, other.tensors) for other in distinct):
            distinct.append(place)
    if len(distinct) > 1:
        names = " and in ".join(place.name for place in distinct[:SHOWN])
        more = f" and {len(distinct) - SHOWN} more places" if len(distinct) > SHOWN else ""
        raise InputError(
            f"{path} holds {len(distinct)} vision towers, in {names}{more}: save the one you mean in a file of its own"
        )
    return distinct[0], others[0].name if others else ""


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Two names of one tower: the same keys and values."""
    if one.keys() != two.keys():
        return False
    for key, a in one.items():
        b = two[key]
        if a is b:
            continue
        plain = all(t.layout == torch.strided and not t.is_meta and not t.is_quantized for t in (a, b))
        if not plain or a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            return False
    return True


def _check_plain(key: str, tensor: Tensor, path: Path) -> None:
    """Refuse tensors that are not simply their values."""
    if tensor.is_meta:
        raise InputError(f"{path} has no values for {key}, only its shape (device meta): save the weights themselves")
    if tensor.is_quantized:
        raise InputError(f"{path} has {tensor.dtype} in {key}: pass a checkpoint that was not quantized")
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise InputError(f"{path} has a sparse tensor ({layout}) in {key}: save it dense, tensor.to_dense()")
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise InputError(f"{path} has a {type(tensor).__name__} in {key}: save plain tensors")


def _nothing(held: Any, mappings: Sequence[tuple[str, Mapping[Any, Any]]], path: Path) -> str:
    """Why no tower was found."""
    if not isinstance(held, Mapping):
        return f"{path} holds a {type(held).__name__}, not a state dict: pass a file of named tensors"
    _, largest = max(mappings, key=lambda item: sum(isinstance(value, Tensor) for value in item[1].values()))
    if any("_flat_param" in str(key) for key in largest):
        return f"{path} is one rank's part of an FSDP model: save the full state dict (StateDictType.FULL_STATE_DICT)"
    strange = [(k, v) for k, v in largest.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if strange and len(strange) == len(largest):
        key, value = strange[0]
        return f"{path} is not a state dict, its {key!r} is a {type(value).__name__}: pass a file of named tensors"
    keys = ", ".join(str(key) for key in list(largest)[:SHOWN])
    return (
        f"{path} holds no PE vision tower, its keys ({keys}, ...) are neither timm's, open_clip's nor Meta's: pass one "
        "of theirs"
    )


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{more}"
