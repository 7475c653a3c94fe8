"""pecore inspect"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pecore.console import show, show_json, table

if TYPE_CHECKING:
    from pecore.validate.graph import Graph, Tensor

EXAMPLE = "pecore inspect out/pe_core_base_224/pe_core_base_224_fp16.tflite"


def inspect(
    file: Annotated[Path, typer.Argument(help="Any .tflite.")],
    runtime: Annotated[str | None, typer.Option(help="LiteRT version whose rules apply; the newest known.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Show a .tflite's ops, ranks and sizes, and what ML Drift refuses or gets wrong in it (exit code 1 if
    anything)."""
    from pecore.validate.graph import constant_bytes, macs, max_rank, op_counts, read_graphs
    from pecore.validate.rules import BLOCKING, check_graphs, runtimes

    runtime = runtime or runtimes()[-1]
    graphs = read_graphs(file)
    findings = check_graphs(graphs, runtime)
    counts = op_counts(*graphs)
    facts = {
        "file": str(file),
        "bytes": graphs[0].size_bytes,
        "ops": sum(counts.values()),
        "ops_by_name": dict(counts.most_common()),
        "max_rank": max_rank(*graphs),
        "macs": macs(*graphs),
        "constant_bytes": constant_bytes(*graphs),
        "signatures": {signature.key: signature.subgraph for signature in graphs[0].signatures},
        "inputs": [_tensor(t, graph, len(graphs)) for graph in graphs for t in graph.inputs],
        "outputs": [_tensor(t, graph, len(graphs)) for graph in graphs for t in graph.outputs],
        "runtime": runtime,
        "findings": [vars(f) for f in findings],
    }
    if as_json:
        show_json(facts)
    else:
        rows = [(name, f"{facts[name]:,}") for name in ("bytes", "ops", "max_rank", "macs")]
        rows.append(("constants", ", ".join(f"{k} {v:,} bytes" for k, v in facts["constant_bytes"].items())))  # type: ignore[attr-defined]
        rows += [(name, "\n".join(facts[name])) for name in ("inputs", "outputs")]  # type: ignore[arg-type]
        rows.append(("ops by name", ", ".join(f"{n} {name}" for name, n in counts.most_common())))
        show(table(str(file), ("", ""), rows, header=False))
        if findings:
            show(_findings_table(findings, runtime))
        else:
            show(f"Nothing that the rules for LiteRT {runtime} refuse or distrust.")
    raise typer.Exit(1 if any(f.verdict in BLOCKING for f in findings) else 0)


def _tensor(tensor: "Tensor", graph: "Graph", graphs: int) -> str:
    of = f"{graph.key}: " if graphs > 1 else ""
    return f"{of}{tensor.name} {tensor.dtype} {list(tensor.shape_signature)}"


def _findings_table(findings: list, runtime: str) -> Table:
    rows = [
        (f"{f.op_name} ({f.op_index})" if f.op_name else "file", f.verdict, f.rule, f.detail, f.source)
        for f in findings
    ]
    title = f"{len(findings)} findings, by the rules for LiteRT {runtime}"
    return table(title, ("op", "verdict", "rule", "what", "source"), rows)
