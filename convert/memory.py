"""Weights and freed memory that the system can take back, so that a conversion needs little of its own.

Large weights go to a temporary file without a name, mapped: its pages can be written out and dropped, as those of a
checkpoint that is mapped.
"""

import ctypes
import gc
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SPILL = 1 << 30  # bytes of weights from which they are kept in a file, not in memory


def mapped_tensors(shapes: Mapping[str, tuple[int, ...]], folder: Path | None = None) -> dict[str, Tensor]:
    """Uninitialised float32 tensors of these shapes, in a file in `folder` (`TMPDIR` where None).

    Raises:
        OSError: there is no room for them.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    with tempfile.TemporaryFile(prefix="pecore-", dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a mapped file that outgrows the disk is a SIGBUS
            os.posix_fallocate(file.fileno(), 0, 4 * sum(sizes))
        store = torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(sum(sizes),)))
    return {key: part.reshape(shape) for (key, shape), part in zip(shapes.items(), store.split(sizes))}


@torch.no_grad()
def move_to_file(module: nn.Module, folder: Path) -> None:
    """Move a module's contiguous float32 weights, where they are large, to a file in `folder`: while a conversion reads
    them there, they take no memory that the system can't take back. They stay where they are without room in `folder`
    for them and for a `.tflite` of their size."""
    weights = {
        name: tensor
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
        if tensor.dtype == torch.float32 and tensor.is_contiguous()
    }
    size = 4 * sum(tensor.numel() for tensor in weights.values())
    if size <= SPILL or shutil.disk_usage(folder).free < 2 * size:
        return
    places = {name: (tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in weights.items()}
    first = {place: name for name, place in reversed(places.items())}  # what is shared stays shared
    try:
        moved = mapped_tensors({name: shape for (_, shape), name in first.items()}, folder)
    except OSError:
        return
    for name, place in places.items():  # one at a time: its memory goes before the next one is copied
        if first[place] == name:
            moved[name].copy_(weights[name])
        weights[name].data = moved[first[place]]
    del weights
    return_freed()


def return_freed() -> None:
    """Return freed memory to the system: of a tower's tensors glibc keeps most, among others that are in use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc alone has it
    if trim:
        trim(0)
