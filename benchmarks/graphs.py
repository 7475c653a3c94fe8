"""Ops, tensors, bytes and MACs of each graph, and what the delegate's rules say about it.

python -m benchmarks.graphs --size B16
"""

import argparse
from typing import Any

from benchmarks import results
from benchmarks.workspace import GRAPHS, Workspace
from pecore.console import working
from pecore.validate.rules import graph_facts as facts
from pecore.variants import find


def run(size: str) -> None:
    work = Workspace(find(size))
    rows: dict[str, Any] = {}
    with working() as stage:
        for name, label in GRAPHS.items():
            stage(f"{size}: {label}")
            rows[name] = facts(work.file(name))
    results.write("graphs", {"size": size, "variant": work.variant.artefact, "graphs": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    run(parser.parse_args().size)


if __name__ == "__main__":
    main()
