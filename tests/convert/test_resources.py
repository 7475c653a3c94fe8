import shutil
from collections import namedtuple

import pytest

from pecore.convert import resources as room
from pecore.errors import InputError
from pecore.variants import find

Usage = namedtuple("Usage", "total used free")
G14 = find("G14").parameters


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(memory, disk): one with so many GB free."""

    def make(memory, disk):
        meminfo = tmp_path / "meminfo"
        meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {round(memory * 1e9 / 1024)} kB\nSwapFree: 0 kB\n")
        monkeypatch.setattr(room, "MEMINFO", meminfo)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, disk * 1e9))

    return make


def test_g14_has_room_on_24_gb(machine, tmp_path):
    machine(16, 14)
    room.check_resources(G14, ("fp16", "int8"), tmp_path / "out" / "bundle")


@pytest.mark.parametrize(
    ("precisions", "weights"),
    [(("fp16",), 2 + 4), (("fp32",), 4), (("fp32", "fp16"), 4 + 2), (("fp32", "int8"), 4 + 1 + 4)],
)
def test_disk_is_for_what_is_kept_and_for_a_float32_file_on_the_way(machine, tmp_path, precisions, weights):
    machine(64, 1.001 * weights * G14 / 1e9)
    room.check_resources(G14, precisions, tmp_path)
    machine(64, 0.999 * weights * G14 / 1e9)
    with pytest.raises(InputError, match="another disk"):
        room.check_resources(G14, precisions, tmp_path)


@pytest.mark.parametrize(
    ("memory", "disk", "said"),
    [
        (8, 100, r"needs about 12\.5 GB of memory and 8\.0 GB are free"),
        (64, 3, r"3\.0 GB free and this needs 11\.3 GB"),
    ],
)
def test_a_small_machine_is_told_before_the_work(machine, tmp_path, memory, disk, said):
    machine(memory, disk)
    with pytest.raises(InputError, match=said):
        room.check_resources(G14, ("fp16",), tmp_path)


def test_a_system_that_does_not_say_is_trusted(machine, monkeypatch, tmp_path):
    machine(1, 100)
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "none")
    assert room.available_memory() is None
    room.check_resources(G14, ("fp16",), tmp_path)
