"""Time and peak memory of a conversion to fp16, with and without `lightweight`, and with the gates.

    python -m benchmarks.conversion --sizes T16 S16 B16 L14

Every conversion is a process, from the start of Python to the finished file: imports, weights (synthetic), export,
quantization; with the gates, `convert_pecore.py --no-gpu`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.section import Section, transposed
from benchmarks.workspace import FOLDER, Workspace
from pecore.console import progress
from pecore.variants import find

WAYS = {
    "lightweight": "ours",
    "plain": "ours, without lightweight conversion",
    "gated": "ours, with every gate but the GPU's",
}
SIZES = ("T16", "S16", "B16", "L14")
TIMEOUT_S = 1200


def measured(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a command in `folder`; its `seconds` and `peak_gb`, or `failed`: the last line it wrote where it failed or
    took `TIMEOUT_S`.

    The peak is the largest resident set of the process, or of one it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(results.ROOT)}
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("wb") as out:
        wrapped = ["timeout", str(TIMEOUT_S), *command]
        child = subprocess.Popen(wrapped, stdout=out, stderr=out, cwd=folder, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"failed": f"exit code {child.returncode}: {words[-1] if words else 'nothing was written'}"[:300]}
    return {"seconds": seconds, "peak_gb": usage.ru_maxrss / 1e6}


def convert(size: str, way: str) -> None:
    """In this process, into the folder it is in: a conversion to fp16, without gates."""
    import torch

    from pecore.convert.export import export_tflite
    from pecore.convert.quantize import quantize
    from pecore.rewrites.tower import rewrite

    work = Workspace(find(size))
    image = torch.zeros(1, 3, work.variant.image_size, work.variant.image_size)
    source = Path(f"{size}_fp32.tflite")
    export_tflite(rewrite(work.model), {"image": image}, source, lightweight=way == "lightweight")
    quantize(source, Path(f"{size}_fp16.tflite"), "fp16")


def in_child(size: str, way: str, folder: Path) -> dict[str, Any]:
    """`convert`, or a conversion with gates, in a process of its own."""
    if way == "gated":
        script = str(results.ROOT / "convert_pecore.py")
        return measured([sys.executable, script, "--size", size, "--weights", "synthetic", "--no-gpu"], folder)
    return measured([sys.executable, "-m", "benchmarks.conversion", "--one", way, "--sizes", size], folder)


def run(sizes: Mapping[str, Sequence[str]]) -> None:
    """Measure; `sizes`: way -> the sizes to convert that way."""
    rows: dict[str, Any] = {size: {} for size in dict.fromkeys(chain(*sizes.values()))}
    with progress() as log:
        for way, chosen in sizes.items():
            for size in chosen:
                log(f"{size}: {WAYS[way]}")
                rows[size][way] = in_child(size, way, FOLDER / "conversion")
    results.write("conversion", {"sizes": rows})


def conversion(contents: results.Contents) -> Section:
    """Seconds and peak memory, by kind of CPU."""
    machines = contents["conversion"]
    keys = [(size, way) for size in SIZES for way in WAYS]
    columns, notes = [["size", *(size for size, _ in keys)], ["by", *(WAYS[way] for _, way in keys)]], []
    for kind, content in machines.items():
        found = [content["sizes"].get(size, {}).get(way, {}) for size, way in keys]
        columns.append([f"{kind}, seconds", *(f"{row['seconds']:.0f}" if "seconds" in row else "" for row in found)])
        columns.append(["peak, GB", *(f"{row['peak_gb']:.1f}" if "seconds" in row else "" for row in found)])
        failed = [(key, row["failed"]) for key, row in zip(keys, found) if "failed" in row]
        notes += [f"{size} by {WAYS[way]} failed on {kind}: {why}" for (size, way), why in failed]
    return Section(*transposed(columns, 2), notes)


SECTIONS = {"conversion": conversion}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--plain", nargs="*", default=SIZES, help="sizes to convert without lightweight")
    parser.add_argument("--gated", nargs="*", default=["B16"], help="sizes to convert with gates")
    parser.add_argument("--one", choices=["lightweight", "plain"], help="this one alone, in this process")
    options = parser.parse_args()
    if options.one:
        convert(options.sizes[0], options.one)
    else:
        run(dict(zip(WAYS, (options.sizes, options.plain, options.gated))))


if __name__ == "__main__":
    main()
