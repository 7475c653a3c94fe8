"""What several verbs' options have in common."""

import os
from collections.abc import Callable
from pathlib import Path

import typer

from pecore.errors import InputError


def weights_source(weights: str, checkpoint: Path | None) -> str | Path:
    """What `--weights` and `--checkpoint` name together: `hub`, `synthetic`, or a file, which wins.

    Raises:
        InputError: `--weights` is neither.
    """
    if weights not in ("hub", "synthetic"):
        raise InputError(f"unknown weights {weights!r}: choose hub or synthetic; a file goes with --checkpoint FILE")
    return checkpoint or weights


def writes(suffix: str) -> Callable[[typer.CallbackParam, Path | None], Path | None]:
    """Callback of an option that names a file to write: what won't do is refused before the work starts."""

    def check(param: typer.CallbackParam, path: Path | None) -> Path | None:
        if path is None:
            return None
        option = param.opts[0]
        if path.suffix.lower() != suffix:
            raise InputError(f"{option} writes {suffix} files, not {path.name}: give a name that ends in {suffix}")
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder: give a file's name in it, such as {path / f'new{suffix}'}")
        if not path.parent.is_dir():
            raise InputError(f"{option} {path}: there is no folder {path.parent}; make it, or give another place")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"{option} {path} can't be written: give another place")
        return path

    return check


def at_least_one(param: typer.CallbackParam, value: int | None) -> int | None:
    """Callback of an option that counts."""
    if value is not None and value < 1:
        raise InputError(f"{param.opts[0]} {value}: take 1 or more")
    return value
