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
    path: Path, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Samples for a graph with these inputs and outputs, as lists of dicts.

    Raises:
        InputError: the file can't be read, or lacks an array, or one's shape is not `[samples, *shape in the graph]`.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} can't be read as an .npz of arrays ({error}); write one with numpy.savez") from error
    wanted = {**inputs, **outputs}
    for name, spec in wanted.items():
        if name not in arrays:
            have = ", ".join(arrays) or "nothing"
            raise InputError(f"{path} holds no array {name!r} (it holds {have}); the graph needs {', '.join(wanted)}")
        if arrays[name].shape[1:] != spec.shape or not len(arrays[name]):
            given, expected = list(arrays[name].shape), ["samples", *spec.shape]
            raise InputError(f"{name!r} in {path} has shape {given}; the graph needs {expected}")
    counts = {len(arrays[name]) for name in wanted}
    if len(counts) > 1:
        raise InputError(f"the arrays in {path} hold different numbers of samples: {sorted(counts)}")
    samples = range(counts.pop())
    return (
        [{name: arrays[name][i].astype(spec.dtype) for name, spec in inputs.items()} for i in samples],
        [{name: arrays[name][i] for name in outputs} for i in samples],
    )
