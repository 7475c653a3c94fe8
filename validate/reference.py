"""`reference.npz`: inputs and the outputs they should give, kept beside a graph so that it can be judged anywhere.

Arrays by the names of the graph's inputs and outputs, each stacked along a first axis of samples:
`image` `[samples, 1, 3, 224, 224]`, `embedding` `[samples, 1, 1024]`.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pecore.errors import InputError
from pecore.runtime import TensorSpec


def save_reference(path: Path, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
    """Write samples, one dict of arrays each."""
    stacked = {name: np.stack([s[name] for s in samples]) for samples in (inputs, outputs) for name in samples[0]}
    np.savez_compressed(path, **stacked)  # type: ignore[arg-type]


def load_reference(
    path: Path, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], signature: str | None = None
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Samples for a graph with these inputs and outputs, as lists of dicts.

    Real numbers for a quantized input are quantized. A size that the graph leaves open is the array's.

    Args:
        signature: of a file that has several; its arrays may be called `SIGNATURE/NAME`, which goes before `NAME`.

    Raises:
        InputError: the file can't be read, or lacks an array, or one's shape is not `[samples, *shape in the graph]`.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} can't be read as an .npz of arrays ({error}); write one with numpy.savez") from error
    wanted = {**inputs, **outputs}
    if signature is not None:
        arrays |= {name: arrays[f"{signature}/{name}"] for name in wanted if f"{signature}/{name}" in arrays}
    for name, spec in wanted.items():
        if name not in arrays:
            have = ", ".join(arrays) or "nothing"
            raise InputError(f"{path} holds no array {name!r} (it holds {have}); the graph needs {', '.join(wanted)}")
        if not arrays[name].ndim or not spec.takes(arrays[name].shape[1:]) or not len(arrays[name]):
            given, expected = list(arrays[name].shape), ["samples", *(spec.open or spec.shape)]
            raise InputError(f"{name!r} in {path} has shape {given}; the graph needs {expected}")
    counts = {len(arrays[name]) for name in wanted}
    if len(counts) > 1:
        raise InputError(f"the arrays in {path} hold different numbers of samples: {sorted(counts)}")
    samples = range(counts.pop())
    return (
        [{name: _stored(arrays[name][i], spec) for name, spec in inputs.items()} for i in samples],
        [{name: arrays[name][i] for name in outputs} for i in samples],
    )


def holds_signature(path: Path, signature: str) -> bool:
    """Whether a reference has arrays that are called after a signature; False also for one that can't be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return any(name.startswith(f"{signature}/") for name in stored.files)
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        return False


def _stored(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """An input as the graph stores it."""
    if spec.scale is None or spec.dtype.kind not in "iu" or array.dtype.kind != "f":
        return array.astype(spec.dtype)
    limits = np.iinfo(spec.dtype)
    return np.clip(np.round(array / spec.scale) + spec.zero_point, limits.min, limits.max).astype(spec.dtype)
