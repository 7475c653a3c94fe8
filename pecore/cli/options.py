"""What several verbs' options have in common."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pecore.errors import InputError

if TYPE_CHECKING:
    from pecore.validate.npu import NpuOptions


def weights_source(weights: str, checkpoint: Path | None) -> str | Path:
    """What `--weights` and `--checkpoint` name together: `hub`, `synthetic`, or a file, which wins.

    Raises:
        InputError: `--weights` is neither.
    """
    if weights not in ("hub", "synthetic"):
        raise InputError(f"unknown weights {weights!r}: choose hub or synthetic; a file goes with --checkpoint FILE")
    return checkpoint or weights


Verbose = Annotated[bool, typer.Option("--verbose", help="Show what the libraries print.")]
Seed = Annotated[int, typer.Option(help="Of synthetic weights.")]
Amplitude = Annotated[float, typer.Option(help="Largest activation of synthetic weights.")]
Ema = Annotated[
    bool, typer.Option("--ema/--no-ema", help="Averaged weights where the checkpoint has both, as timm does.")
]
ImageSize = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Other than the trained one: positions are interpolated.")
]
Npu = Annotated[
    str | None,
    typer.Option("--npu", metavar="CHIPS", help="Compile for these Qualcomm chips too: SM8850, or more, with commas."),
]
NpuRun = Annotated[
    bool, typer.Option("--npu-run", help="Execute the first chip's context in simulation, a minute or more an image.")
]
RequireNpu = Annotated[bool, typer.Option("--require-npu", help="No NPU compiler here is a failure.")]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-qualcomm-licence", help="Of the QNN libraries that --npu runs; the first run names it."),
]


def npu_options(chips: str | None, run: bool, required: bool, accepted: bool) -> "NpuOptions | None":
    """What `--npu` and its companions ask for together; None without `--npu`.

    Raises:
        InputError: a companion alone, or no chip's name.
    """
    from pecore.validate.npu import NpuOptions

    if chips is None:
        for name, given in (("--npu-run", run), ("--require-npu", required)):
            if given:
                raise InputError(f"{name} needs a chip to compile for: add --npu SM8850")
        return None
    named = tuple(dict.fromkeys(chip.strip().upper() for chip in chips.split(",") if chip.strip()))
    return NpuOptions(named, run, required, accepted)


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
