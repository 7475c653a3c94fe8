"""The size of a graph, in the figures by which two graphs of one tower are compared."""

from collections import Counter
from pathlib import Path
from typing import Any

from validate.graph import macs, op_counts, read_graph
from validate.rules import BLOCKING, check


def facts(path: Path) -> dict[str, Any]:
    """Ops, tensors (distinct ones that ops read or write), bytes of the file, MACs of one run, and how many ops the
    rules for the newest LiteRT known refuse or distrust, by rule."""
    graph = read_graph(path)
    tensors = {t.index for op in graph.ops for t in (*op.inputs, *op.outputs) if t is not None}
    findings = Counter(finding.rule for finding in check(graph) if finding.verdict in BLOCKING)
    return {
        "ops": sum(op_counts(graph).values()),
        "tensors": len(tensors),
        "bytes": graph.size_bytes,
        "macs": macs(graph),
        "findings": dict(findings),
    }
