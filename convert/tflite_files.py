"""A rewritten tower -> its `.tflite` files, one for each precision."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.precision import PRECISIONS
from pecore.runtime import Arrays


def write_files(
    make: Callable[[], nn.Module],
    inputs: Mapping[str, Tensor],
    files: Mapping[str, Path],
    outputs: Sequence[str] = ("embedding",),
    log: Callable[[str], None] = lambda line: None,
    samples: Sequence[Arrays] = (),
) -> None:
    """Write the `files` (precision -> path) of one rewritten tower.

    Args:
        make: makes the tower. It is called here, and the tower let go before its float32 file is quantized: of a large
            one, that needs the room.
        inputs, outputs: as `export_tflite` takes them.
        samples: inputs by name, for the ranges of integer activations.
        files: of precisions with the same `Precision.keep_norm_weights`, which the tower has to have been made with.
    """
    whole = files.get("fp32")
    source = whole or next(iter(files.values())).with_name("source.tflite")
    log("converting to float32 .tflite")
    export_tflite(make(), inputs, source, tuple(outputs))
    for precision, path in files.items():
        if path != source:
            log(f"quantizing to {precision}")
            quantize(source, path, precision, samples if PRECISIONS[precision].integer else ())
    if source != whole:
        source.unlink()


def write_fp16(tower: nn.Module, image: Tensor, path: Path) -> None:
    """Write a tower whose output is an embedding as one fp16 file."""
    write_files(lambda: tower, {"image": image}, {"fp16": path})
