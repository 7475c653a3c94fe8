"""Every topic in turn, then the tables of docs/benchmarks.md and README.md.

python -m benchmarks            as the pages have it: B16, 20 to 30 minutes on two cores that do nothing else
python -m benchmarks --quick    T16 and few rounds, to build/bench/quick: whether it works
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks import page, results
from benchmarks.workspace import FOLDER

TOPICS: Mapping[str, Sequence[str]] = {
    "graphs": ("--size", "T16"),
    "latency": ("--size", "T16", "--rounds", "3", "--threads", "1"),
    "conversion": ("--sizes", "T16", "--plain", "T16", "--gated", "T16"),
    "accuracy": ("--size", "T16", "--sweep-size", "T16", "--sweep-depth", "1", "--amplitudes", "0", "400", "20000"),
}
"""Module -> what --quick adds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    where = FOLDER / "quick" if options.quick else results.RESULTS
    started = time.monotonic()
    for topic, quick in TOPICS.items():
        print(f"{time.monotonic() - started:6.0f} s  {topic}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{topic}", *(quick if options.quick else ())]
        subprocess.run(command, check=True, env={**os.environ, results.RESULTS_VARIABLE: str(where)})
    page.write(results.read(where), where if options.quick else None)
    print(f"{time.monotonic() - started:6.0f} s  done", flush=True)


if __name__ == "__main__":
    main()
