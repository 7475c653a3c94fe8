"""Every topic in turn, then docs/benchmarks.md and the figures of README.md.

python -m benchmarks            as the page has it: B16, 20 to 30 minutes on two cores
python -m benchmarks --quick    T16 and few rounds, to a folder of its own: whether it works
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import page, readme, results
from benchmarks.workspace import FOLDER

TOPICS: Sequence[tuple[str, Sequence[str]]] = (
    # module, what --quick adds
    ("graphs", ("--size", "T16")),
    ("latency", ("--size", "T16", "--rounds", "3", "--threads", "1")),
    ("conversion", ("--sizes", "T16", "--plain", "T16", "--gated", "T16", "--against", "T16")),
    ("accuracy", ("--size", "T16", "--sweep-size", "T16", "--sweep-depth", "1", "--amplitudes", "0", "400", "20000")),
    ("tried", ("--size", "T16", "--depth", "1", "--int4", "T16", "--rounds", "3")),
    ("scaling", ("--size", "T16", "--depth", "1", "--sizes", "T16", "S16", "--rounds", "3")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    where = FOLDER / "quick" if options.quick else results.RESULTS
    started = time.monotonic()
    for topic, quick in TOPICS:
        print(f"{time.monotonic() - started:6.0f} s  {topic}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{topic}", *(quick if options.quick else ())]
        subprocess.run(command, check=True, env={**os.environ, results.RESULTS_VARIABLE: str(where)})
    if options.quick:
        page.write(where, where / "benchmarks.md", where / "images")
    else:
        page.write(where, page.PAGE, page.IMAGES)
        readme.write()
    print(f"{time.monotonic() - started:6.0f} s  done", flush=True)


if __name__ == "__main__":
    main()
