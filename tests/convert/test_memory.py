"""What a conversion holds in memory that the system can't take back, in bytes; and that results do not depend on it."""

import ctypes
import os
import re
import shutil
from collections import namedtuple
from itertools import chain
from pathlib import Path

import litert_torch
import pytest
import torch

from pecore.convert import memory, synthetic
from pecore.convert.export import export_tflite
from pecore.errors import InputError
from pecore.rewrites.tower import rewrite

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list its mappings")

MB = 1 << 20


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(chain(module.named_parameters(), module.named_buffers()))


def bytes_in_memory(module: torch.nn.Module) -> int:
    """Of a module's tensors: those outside of the mapped temporary files."""
    mappings = re.findall(r"^(\w+)-(\w+) rw-s .* \(deleted\)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    files = [range(int(start, 16), int(end, 16)) for start, end in mappings]
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in tensors(module).values()
        if not any(tensor.data_ptr() in file for file in files)
    )


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


class _Shared(torch.nn.Module):
    """Two names of one table, a strided one and ids: what must stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(300, 200)
        self.register_buffer("table", torch.arange(12.0).reshape(3, 4))
        self.register_buffer("again", self.table)
        self.register_buffer("strided", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("ids", torch.arange(5, dtype=torch.int32))


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SPILL", 0)


def test_large_weights_are_in_a_file_alone(nothing_is_small: None, tmp_path: Path) -> None:
    module = _Shared()
    before = {name: tensor.clone() for name, tensor in tensors(module).items()}
    memory.move_to_file(module, tmp_path)
    assert bytes_in_memory(module) == 4 * (6 + 5)
    assert list(tmp_path.iterdir()) == []
    assert module.again.data_ptr() == module.table.data_ptr()
    for name, tensor in tensors(module).items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.stride() == before[name].stride()


@pytest.mark.parametrize("size", [200_000_000, 4 * 60_000])  # as large as is small; a disk with room for one copy
def test_small_weights_and_those_without_room_stay(size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "SPILL", size)
    module = torch.nn.Linear(300, 200, bias=False)
    if size == 4 * 60_000:
        monkeypatch.setattr(memory, "SPILL", 0)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("Usage", "free")(2 * size - 1))
    memory.move_to_file(module, tmp_path)
    assert bytes_in_memory(module) == 4 * 60_000


def test_a_disk_that_fills_up_meanwhile_changes_nothing(
    nothing_is_small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    module = _Shared()
    memory.move_to_file(module, tmp_path)
    assert bytes_in_memory(module) == sum(t.numel() * t.element_size() for t in tensors(module).values())
    monkeypatch.setattr(synthetic, "SPILL", 0)
    with pytest.raises(InputError, match=r"no room for 0\.0 GB of synthetic weights.*TMPDIR"):
        synthetic.keeper({"weight": (3, 4)})


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_the_memory_they_had_is_the_systems(nothing_is_small: None, tmp_path: Path) -> None:
    """glibc keeps what is freed between blocks that are in use: of a tower, nearly all."""
    between, layers = [], []
    for _ in range(64):
        layers.append(torch.nn.Linear(1024, 512, bias=False))  # 2 MB
        between.append(torch.ones(16_000))
    module = torch.nn.Sequential(*layers)
    del layers
    before = anonymous()
    memory.move_to_file(module, tmp_path)
    assert before - anonymous() > 100 * MB  # of 128
    assert sum(tensor.numel() for tensor in between) == 64 * 16_000


def test_the_converter_reads_weights_from_a_file_and_writes_the_same_bytes(
    converted, nothing_is_small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = []
    signature = litert_torch.signature

    def counted(name: str, module: torch.nn.Module, **options: object) -> object:
        held.append(bytes_in_memory(module))
        return signature(name, module, **options)

    monkeypatch.setattr(litert_torch, "signature", counted)
    for spill in (0, 1 << 30):
        monkeypatch.setattr(memory, "SPILL", spill)
        export_tflite(rewrite(converted.model), {"image": converted.image}, tmp_path / f"{spill}.tflite")
    assert held[0] == 0 < held[1]
    assert (tmp_path / "0.tflite").read_bytes() == (tmp_path / f"{1 << 30}.tflite").read_bytes()
