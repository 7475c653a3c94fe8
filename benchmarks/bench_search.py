"""`pecore.index.top_k` beside numpy's bare matrix product, paired, over a memory-mapped index.

    python benchmarks/bench_search.py --rows 100000 --dim 1024

Each round runs both, in turn; the ratio is the median over rounds. The file is read once before, so what is
measured is memory, not the disk. Random directions: the time does not depend on them.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from pecore.index import read_index, top_k, write_index
from pecore.timing import paired, ratio, spread

BLOCK = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def directions(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, options.dim), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index.npz")
        blocks = (directions(min(BLOCK, options.rows - i)) for i in range(0, options.rows, BLOCK))
        names = [f"{i}.jpg" for i in range(options.rows)]
        write_index(path, blocks, names, [(0, 0)] * options.rows, {"space": {"fingerprint": ""}}, options.dim)
        embeddings = read_index(path).embeddings
        print(f"{options.rows} x {options.dim} float32, top {options.top}, {options.rounds} paired rounds")
        print("| queries | ours, ms | bare product, ms | ratio, median | quartiles |")
        print("|---|---|---|---|---|")
        for count in options.queries:
            queries = directions(count)
            runs = {
                "ours": partial(top_k, queries, embeddings, options.top),
                "product": partial(np.dot, embeddings, queries.T),
            }
            times = paired(runs, options.rounds, warm=1)  # the first round reads the file
            found = ratio(times["ours"], times["product"])
            medians = (1000 * spread(t).median for t in times.values())
            cells = [str(count), *(f"{t:.1f}" for t in medians), f"{found.median:.2f}"]
            cells.append(f"{found.low:.2f} to {found.high:.2f}")
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
