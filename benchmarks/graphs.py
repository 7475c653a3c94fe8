"""Ops, tensors, bytes and MACs of each graph, and what the delegate's rules say about it.

python -m benchmarks.graphs --size B16
"""

import argparse

from benchmarks import results
from benchmarks.section import Section, counted
from benchmarks.workspace import GRAPHS, Workspace
from pecore.console import progress
from pecore.validate.rules import graph_facts
from pecore.variants import find


def run(size: str) -> None:
    work = Workspace(find(size))
    rows = {}
    with progress() as log:
        for name, label in GRAPHS.items():
            log(f"{size}: {label}")
            rows[name] = graph_facts(work.file(name))
    results.write("graphs", {"size": size, "variant": work.variant.artefact, "graphs": rows})


def graphs(contents: results.Contents) -> Section:
    """One row a graph."""
    size = contents["graphs"]["size"]
    headings = [f"graph of {size}", "ops", "tensors", "MB", "GMACs", "ops that the rules refuse or distrust"]
    rows = [
        [
            GRAPHS[name],
            str(facts["ops"]),
            str(facts["tensors"]),
            f"{facts['bytes'] / 1e6:.1f}",
            f"{facts['macs'] / 1e9:.2f}",
            counted(facts["findings"]),
        ]
        for name, facts in contents["graphs"]["graphs"].items()
    ]
    return Section(headings, rows)


SECTIONS = {"graphs": graphs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    run(parser.parse_args().size)


if __name__ == "__main__":
    main()
