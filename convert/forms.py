"""A tower has several forms, all exact; which one a file is made from, and the files of one form together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convert.export import export_tflite
from convert.quantize import quantize


@dataclass(frozen=True)
class Form:
    """What reports call a form of the tower, and its `options`, as `rewrites.rewrite` takes them."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


FOLDED = Form("tower")
KEPT = Form("tower with norm weights kept", {"keep_norm_weights": True})

FORMS: Mapping[str, Form] = {"fp16": FOLDED, "int8": KEPT, "fp32": FOLDED}
"""What `--precision` takes -> the form that such a file has."""


def by_form(files: Mapping[str, Path]) -> list[tuple[Form, dict[str, Path]]]:
    """`files` (precision -> path) apart, by the form that they are made from."""
    apart = [(form, {p: path for p, path in files.items() if FORMS[p] is form}) for form in (FOLDED, KEPT)]
    return [(form, made) for form, made in apart if made]


def write_files(
    make: Callable[[], nn.Module],
    inputs: Mapping[str, Tensor],
    files: Mapping[str, Path],
    outputs: tuple[str, ...],
    stage: Callable[[str], None],
) -> None:
    """Write the `files` (precision -> path, all of one form) of the tower that `make` gives.

    The tower is asked for here and let go before its float32 file is quantized: of a large one, that needs the room.
    `inputs` and `outputs` as `export_tflite` takes them.
    """
    whole = files.get("fp32")
    source = whole or next(iter(files.values())).with_name("source.tflite")
    stage("converting to float32 .tflite")
    export_tflite(make(), inputs, source, outputs)
    for precision, path in files.items():
        if path != source:
            stage(f"quantizing to {precision}")
            quantize(source, path, precision)
    if source != whole:
        source.unlink()


def write_fp16(tower: nn.Module, image: Tensor, path: Path) -> None:
    """Write a tower whose output is an embedding as one fp16 file."""
    write_files(lambda: tower, {"image": image}, {"fp16": path}, ("embedding",), lambda _: None)
