"""Time and peak memory of conversions, each in a process of its own.

    python benchmarks/bench_conversion.py T16 S16 B16 L14

The time is split where `convert_pecore.py` says it enters a stage; the GPU gate is left out (its time is the driver's).
Peak memory is the child's largest resident set, gates included. Synthetic weights.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = """
import resource, sys
from pecore.cli import main
try:
    main(sys.argv[1:])
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
STAGE = re.compile(r"^ *([\d.]+) s  (.+)$", re.MULTILINE)


def measure(size: str, folder: Path) -> tuple[float, float, float]:
    """(seconds for everything, seconds for export and quantization alone, peak GB)."""
    arguments = ["convert", "--size", size, "--weights", "synthetic", "--no-gpu", "--out", str(folder)]
    child = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
    stages = [(float(at), name) for at, name in STAGE.findall(child.stderr)]
    end = stages[-1][0]
    export = next(at for at, name in stages if name.startswith("converting"))
    judged = next(at for at, name in stages if name.startswith("running"))
    peak = re.search(r"PEAK (\d+)", child.stderr)
    return end, judged - export, int(peak.group(1)) / 1e6 if peak else float("nan")


def main() -> None:
    print("| size | conversion with gates, s | of which export and fp16, s | peak memory, GB |")
    print("|---|---|---|---|")
    for size in sys.argv[1:] or ["B16"]:
        with tempfile.TemporaryDirectory() as folder:
            total, export, peak = measure(size, Path(folder))
        print(f"| {size} | {total:.0f} | {export:.0f} | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
