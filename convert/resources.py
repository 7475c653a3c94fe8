"""Whether a conversion has the memory and the disk it will need: known before it starts, not after twenty minutes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pecore.errors import InputError
from pecore.precision import PRECISIONS, by_tower

MEMORY = (1.2e9, 6.0)
"""Bytes for the libraries, and for each parameter: what quantizing to fp16 takes, the most that any step does. Measured
on G14, 11.8 GB for 1.88 B parameters (docs/artefacts.md)."""

MEMINFO = Path("/proc/meminfo")


def check_resources(parameters: int, precisions: Sequence[str], target: Path) -> None:
    """Refuse a conversion that this machine has no room for.

    Args:
        parameters: of the tower.
        precisions: of the files to write.
        target: the bundle's folder.

    Raises:
        InputError: how much is needed, and how much there is.
    """
    place = next(p for p in (target, *target.absolute().parents) if p.exists())
    on_the_way = any("fp32" not in names for _, names in by_tower(precisions))  # a tower's float32 file
    kept = sum(PRECISIONS[name].bytes_per_weight for name in set(precisions))
    disk = parameters * (kept + PRECISIONS["fp32"].bytes_per_weight * on_the_way)
    free = shutil.disk_usage(place).free
    if free < disk:
        raise InputError(
            f"{place} has {_gb(free)} free and this needs {_gb(disk)}: give --out a folder on another disk"
        )
    memory, available = MEMORY[0] + MEMORY[1] * parameters, available_memory()
    if available is not None and available < memory:
        raise InputError(
            f"this needs about {_gb(memory)} of memory and {_gb(available)} are free: end other programs, add swap, "
            "or convert on a larger machine"
        )


def available_memory() -> float | None:
    """Bytes available to a process, swap included; None where the system does not say (Linux does)."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return sum(1024.0 * int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
