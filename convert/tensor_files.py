"""What a checkpoint's files hold, as it was saved: one safetensors or PyTorch file, or the shards of a large model.

Nothing in a pickle is ever run. PyTorch files are read with `weights_only=True`, and the harmless types that training
scripts save beside the weights (`STAND_INS`) become empty stand-ins: not even their own code runs, and they need not
be installed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.serialization import safe_globals

from pecore.errors import InputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")  # of checkpoints, where only a folder is named
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
INDEX = ".index.json"
ADAPTER = "adapter_config.json"  # PEFT's
SHOWN = 3  # files named in an error


class _StandIn(list):
    """In place of an object of a harmless type. It takes whatever its class is given and keeps none of it; a list, for
    that is what torch's reader lets elements be added to."""

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # keys of dicts, members of sets


class _DictStandIn:
    """In place of a dict of another class: a dict, for torch's reader sets items of nothing else."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return {}


STAND_INS: Sequence[tuple[str, type]] = (
    (r"argparse\.Namespace|types\.SimpleNamespace", _StandIn),
    (r"numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|bool_?|(u?int|float|complex)\d*_?)", _StandIn),
    (r"numpy\.dtypes\.\w+|numpy(\.\w+)*\.(_frombuffer|_pickle\.\w+|__\w+_ctor)", _StandIn),
    (r"pathlib(\._local)?\.\w+|datetime\.\w+|decimal\.Decimal|fractions\.Fraction|uuid\.\w+|zoneinfo\.\w+", _StandIn),
    (r"collections\.(deque|namedtuple)|_codecs\.encode|copyreg\._reconstructor|copy_reg\._reconstructor", _StandIn),
    (r"(builtins\.|__builtin__\.)?(object|set|frozenset|complex|bytearray|slice|range|bytes|list|tuple|int)", _StandIn),
    (r"collections\.(defaultdict|UserDict)|(builtins\.|__builtin__\.)?dict", _DictStandIn),
    (r"(easydict\.EasyDict|addict\.addict\.Dict|yacs\.config\.CfgNode|ml_collections\..*ConfigDict)", _DictStandIn),
    (r"(pytorch_)?lightning\..*AttributeDict|lightning_fabric\..*AttributeDict", _DictStandIn),
    (r"omegaconf\.\w+\.\w+|typing\.\w+|enum\.\w+|torch\.torch_version\.TorchVersion", _StandIn),
    (r"torch\.optim(\.\w+)+|(pytorch_)?lightning\.\w+\.[A-Z_a-z.]*(Enum|Type|Mode)", _StandIn),
)
"""Names in pickles, as patterns -> what stands in for them. Data alone: a name that runs things (`os.system`) isn't
here, and its file is refused, for nobody saves it by accident."""


def read(path: Path) -> tuple[Any, list[Path]]:
    """What `path` holds, as `torch.load` gives it, and the files it was read from.

    A file, memory-mapped where the format allows; an `.index.json` of shards; or a folder with one of these. Of shards
    the tensors of all.

    Raises:
        InputError: it is no whole checkpoint, one shard of several, an adapter, or pickles code, of which none is run.
    """
    if path.is_dir():
        return _folder(path)
    start = _start(path)
    if path.name.endswith(INDEX):
        return _shards(path, _indexed(path))
    if (match := SHARD.search(path.name)) and int(match[2]) > 1:
        raise InputError(
            f"{path} is a shard of {int(match[2])}: pass the folder that holds all of them, {path.absolute().parent}"
        )
    if start[8:9] == b"{":
        return _safetensors(path), [path]
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _pytorch(path, mmap=start.startswith(b"PK")), [path]
    raise InputError(f"{path} is neither a safetensors nor a PyTorch file: pass a checkpoint in one of these formats")


def digest(files: Sequence[Path]) -> str:
    """sha256, in hex, of the files' bytes, one after the other."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint {path}: check the path") from error
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check its permissions") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{str(path)!r} is no path ({error}): check it") from error
    if not start:
        raise InputError(f"{path} is empty: download the checkpoint again")
    if start.startswith(LFS_POINTER):
        raise InputError(f"{path} is a Git LFS pointer, not the weights: run git lfs pull where it was cloned")
    return start


def _folder(folder: Path) -> tuple[Any, list[Path]]:
    """The one checkpoint in a folder."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    if any(p.name == ADAPTER for p in files):
        raise InputError(adapter(folder))
    if any(p.suffix == ".distcp" for p in files):
        raise InputError(
            f"{folder} is a checkpoint of torch.distributed: make one file of it, "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    indices = [p for p in files if p.name.endswith(INDEX)]
    if len(indices) == 1:
        return _shards(indices[0], _indexed(indices[0]))
    found = [p for p in files if p.suffix in SUFFIXES]
    counts = {int(match[2]) for p in found if (match := SHARD.search(p.name))}
    if len(counts) == 1 and len(found) == counts.pop() > 1:
        return _shards(folder, found)
    if len(found) == 1:
        return read(found[0])
    names = ", ".join(p.name for p in found[:SHOWN]) + (f" and {len(found) - SHOWN} more" * (len(found) > SHOWN))
    raise InputError(
        f"{folder} is a folder with {names or 'no checkpoint in it'}: pass the checkpoint file"
        + (", or the folder of a whole set of shards" if found else "")
    )


def _indexed(index: Path) -> list[Path]:
    """The shards that an index names."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("no bare file names in its weight_map")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of shards ({error!r}): pass the folder it came in") from error
    return [index.with_name(name) for name in names]


def _shards(where: Path, shards: Sequence[Path]) -> tuple[Any, list[Path]]:
    if missing := [p.name for p in shards if not p.is_file()]:
        raise InputError(
            f"{where} is of {len(shards)} shards and lacks {', '.join(missing[:SHOWN])}: download the rest of it"
        )
    tensors: dict[Any, Any] = {}
    for path in shards:
        held = _safetensors(path) if _start(path)[8:9] == b"{" else _pytorch(path, mmap=True)
        if not isinstance(held, dict):
            raise InputError(f"{path} holds a {type(held).__name__}, not a shard's tensors: download it again")
        if twice := [key for key in held if key in tensors]:
            raise InputError(
                f"{path} holds {twice[0]}, which another shard of {where} holds as well: download it again"
            )
        tensors |= held
    return tensors, list(shards)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except Exception as error:  # its own errors, and Python's for a type that this torch lacks
        raise InputError(f"{path} is a damaged or truncated safetensors file ({error}): download it again") from error


def _pytorch(path: Path, mmap: bool) -> Any:
    # torch.load maps only what it opens itself, and takes a path that ends in .safetensors at its word.
    mmap = mmap and path.suffix != ".safetensors"
    allowed: dict[str, type] = {}
    while True:
        try:
            return _load(path, mmap, allowed)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            name = found[1] if found else "more than tensors"
            stand_in = next((kind for pattern, kind in STAND_INS if re.fullmatch(pattern, name)), None)
            if stand_in is None or name in allowed:
                raise InputError(
                    f"{path} is refused because it pickles {name}, and loading that could run code: pass safetensors "
                    "or a file of tensors alone, torch.save(model.state_dict(), FILE)"
                ) from error
            # The error leaves out `builtins.`, which the pickle may call `__builtin__.`
            allowed |= {f"{module}{name}": stand_in for module in ("", "builtins.", "__builtin__.")}
        except Exception as error:  # a damaged archive or pickle can make the reader raise nearly anything
            raise InputError(_damage(path, error)) from error


def _load(path: Path, mmap: bool, allowed: dict[str, type]) -> Any:
    pairs: Any = [(kind, name) for name, kind in allowed.items()]
    # torch keeps the sparse tensors of a load that failed, and validates them in the next one.
    getattr(torch._utils, "_sparse_tensors_to_validate", []).clear()
    # Warnings are about pickle protocols.
    with warnings.catch_warnings(action="ignore"), safe_globals(pairs), path.open("rb") as file:
        return torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch.load can't read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        names = []
    if "constants.pkl" in names:
        return f"{path} is a TorchScript program, not weights: save its state_dict(), torch.save(m.state_dict(), FILE)"
    if names and "data.pkl" not in names:
        return f"{path} is a zip archive that torch.save did not write: pass the checkpoint file itself"
    reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
    return f"{path} is damaged, truncated or no state dict ({reason}): download it again"


def adapter(path: Path) -> str:
    """What to say of a low-rank adapter."""
    return (
        f"{path} is a LoRA adapter, not the weights of a tower: merge it first (PEFT: model.merge_and_unload()), and "
        "pass what you save then"
    )
