"""Gate 2, "graph": what ML Drift, LiteRT's GPU delegate, would refuse or compute wrongly, told from the graph alone.

The rules are data, `rules/*.toml`, each with the runtime versions it holds for and where it comes from; here are the
predicates they name. A delegate run without a phone proves one backend; these rules carry what was seen on the others.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pecore.errors import InputError
from pecore.validate.graph import Graph, Op, Tensor, macs, read_graph

VERDICTS = ("refused", "wrong", "crashes", "note")
BLOCKING = frozenset(VERDICTS) - {"note"}
"""The verdicts that fail the gate."""

_DATA = Path(__file__).with_name("rules")


@dataclass(frozen=True)
class Rule:
    """One line of knowledge about the delegate; the fields are explained at the head of `rules/mldrift.toml`."""

    id: str
    verdict: str
    when: str
    reason: str
    instead: str
    backend: str
    source: str
    seen: tuple[str, ...]
    ops: frozenset[str] = frozenset()
    params: Mapping[str, Any] = field(default_factory=dict)
    since: str | None = None
    fixed: str | None = None

    def holds_for(self, runtime: str) -> bool:
        """Whether the rule holds for a runtime version: from `since`, up to but not including `fixed`."""
        version = _version(runtime)
        return (self.since is None or version >= _version(self.since)) and (
            self.fixed is None or version < _version(self.fixed)
        )


@dataclass(frozen=True)
class Finding:
    """A broken rule. `op_index` and `op_name` are None where it is about the whole file; `detail` is a sentence.
    `signature` names the graph of a file that has several."""

    rule: str
    verdict: str
    op_index: int | None
    op_name: str | None
    detail: str
    source: str
    signature: str | None = None


def check_graphs(graphs: Sequence[Graph], runtime: str | None = None) -> list[Finding]:
    """What `check` says about each of a file's graphs; what is about the file once."""
    if len(graphs) == 1:
        return check(graphs[0], runtime)
    found: list[Finding] = []
    for graph in graphs:
        for finding in check(graph, runtime):
            if finding.op_index is not None:
                detail = f"in signature {graph.key}, {finding.detail}"
                found.append(replace(finding, detail=detail, signature=graph.key))
            elif finding not in found:
                found.append(finding)
    return found


def check(graph: Graph, runtime: str | None = None) -> list[Finding]:
    """What the rules for LiteRT version `runtime` (None: the newest known) say about `graph`, op by op.

    A version newer than the rules is checked with the newest, and a note says so. InputError for any other unknown one.
    """
    known, rules = load_rules()
    runtime, note = known_runtime(known[-1] if runtime is None else runtime)
    view = _View(graph)
    findings = [note] if note else []
    active = [rule for rule in rules if rule.holds_for(runtime)]
    for rule in active:
        if rule.when in GRAPH_PREDICATES and (what := GRAPH_PREDICATES[rule.when](graph)):
            findings.append(_finding(rule, None, what))
    for op in graph.ops:
        for rule in active:
            if (
                rule.when in PREDICATES
                and (not rule.ops or op.name in rule.ops)
                and (what := PREDICATES[rule.when](view, op, rule.params))
            ):
                findings.append(_finding(rule, op, what))
    return findings


def graph_facts(path: Path) -> dict[str, Any]:
    """The size of a graph, in the figures by which two graphs of one tower are compared: ops, tensors (distinct ones
    that ops read or write), bytes of the file, MACs of one run, and how many ops the rules for the newest LiteRT known
    refuse or distrust, by rule."""
    graph = read_graph(path)
    tensors = {t.index for op in graph.ops for t in (*op.inputs, *op.outputs) if t is not None}
    findings = Counter(finding.rule for finding in check(graph) if finding.verdict in BLOCKING)
    return {
        "ops": len(graph.ops),
        "tensors": len(tensors),
        "bytes": graph.size_bytes,
        "macs": macs(graph),
        "findings": dict(findings),
    }


def runtimes() -> tuple[str, ...]:
    """The LiteRT versions that the rules were written for, oldest first."""
    return load_rules()[0]


@cache
def load_rules() -> tuple[tuple[str, ...], tuple[Rule, ...]]:
    """The known runtime versions, oldest first, and every rule in the data."""
    versions: set[str] = set()
    rules: list[Rule] = []
    for path in sorted(_DATA.glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        versions.update(data["runtimes"])
        rules += [
            Rule(**{**rule, "seen": tuple(rule["seen"]), "ops": frozenset(rule.get("ops", ()))})
            for rule in data["rule"]
        ]
    return tuple(sorted(versions, key=_version)), tuple(rules)


def known_runtime(runtime: str) -> tuple[str, Finding | None]:
    """The version whose rules serve for LiteRT `runtime`, and a note where that is an older one.

    Raises:
        InputError: no such version is known, nor is it a newer one.
    """
    known = runtimes()
    if runtime in known:
        return runtime, None
    try:
        newer = _version(runtime) > _version(known[-1])
    except ValueError:
        newer = False
    if not newer:
        raise InputError(
            f"runtime '{runtime}' is not one that the rules know; choose one of {', '.join(known)}, or a newer one"
        )
    detail = f"LiteRT {runtime} is newer than the rules; those for {known[-1]} were used"
    return known[-1], Finding("runtime-newer", "note", None, None, detail, "validate/rules")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _finding(rule: Rule, op: Op | None, what: str) -> Finding:
    because = f"{what}: {rule.reason}; {rule.instead}"
    if op is None:
        return Finding(rule.id, rule.verdict, None, None, because, rule.source)
    return Finding(rule.id, rule.verdict, op.index, op.name, f"{op.name} (op {op.index}) {because}", rule.source)


class _View:
    """A graph with its edges: who writes a tensor, who reads it, and what the delegate takes for a constant."""

    def __init__(self, graph: Graph) -> None:
        self.outputs = {tensor.index for tensor in graph.outputs}
        self.producer = {tensor.index: op for op in graph.ops for tensor in op.outputs}
        self.readers: defaultdict[int, list[Op]] = defaultdict(list)
        for op in graph.ops:
            for index in {tensor.index for tensor in op.inputs if tensor is not None}:
                self.readers[index].append(op)

    def behind_dequantize(self, tensor: Tensor) -> bool:
        """Whether the tensor is a constant's DEQUANTIZE, which the delegate reads as the constant itself."""
        op = self.producer.get(tensor.index)
        return (
            op is not None
            and op.name == "DEQUANTIZE"
            and all(source is not None and source.constant for source in op.inputs)
        )

    def constant(self, tensor: Tensor) -> bool:
        return tensor.constant or self.behind_dequantize(tensor)

    def activations(self, op: Op) -> list[Tensor]:
        """The inputs that change from run to run."""
        return [tensor for tensor in op.inputs if tensor is not None and not self.constant(tensor)]


def _input(op: Op, position: int) -> Tensor | None:
    return op.inputs[position] if position < len(op.inputs) else None


def _tensors(op: Op) -> list[Tensor]:
    return [tensor for tensor in (*op.inputs, *op.outputs) if tensor is not None]


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


# Predicates: (graph, operation, the rule's params) -> what was found, in words to follow the operation's name, or None.


def _always(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    return "is in the graph"


def _builtin_outside(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    return "is in the graph" if op.kind == "builtin" and op.name not in params["known"] else None


def _kind(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    named = op.name.startswith(params.get("prefix", "")) and not op.name.startswith(tuple(params.get("without", ())))
    return f"is a {op.kind} operation" if op.kind == params["kind"] and named else None


def _dtype(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    found = next((tensor for tensor in _tensors(op) if tensor.dtype in params["dtypes"]), None)
    return f"touches '{found.name}', {_text(found)}" if found else None


def _rank_above(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    found = next((tensor for tensor in _tensors(op) if len(tensor.shape) > params["rank"]), None)
    return f"touches '{found.name}', {_text(found)}" if found else None


def _input_rank_outside(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    source = _input(op, 0)
    return f"reads {_text(source)}" if source and len(source.shape) not in params["ranks"] else None


def _output_rank(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    return next((f"yields {_text(tensor)}" for tensor in op.outputs if len(tensor.shape) == params["rank"]), None)


def _constant_input(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    tensor = _input(op, params["position"])
    return (
        f"reads a constant {_text(tensor)} as input {params['position']}" if tensor and view.constant(tensor) else None
    )


def _constant_inputs(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    inputs = [tensor for tensor in op.inputs if tensor is not None]
    if op.name == "DEQUANTIZE" or not inputs or view.activations(op):
        return None
    return "reads constants only" if any(map(view.behind_dequantize, inputs)) == params["behind_dequantize"] else None


def _identical_inputs(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    left, right = _input(op, 0), _input(op, 1)
    return f"reads '{left.name}' twice" if left and right and left.index == right.index else None


def _runtime_operand(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    found = next((tensor for tensor in view.activations(op) if tensor is not _input(op, 0)), None)
    return f"reads '{found.name}', {_text(found)}, which is no constant" if found else None


def _option_set(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    names = [name for name in params["names"] if op.options.get(name)]
    return f"has {' and '.join(names)} set" if names else None


def _option_not(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    value = op.options.get(params["name"])
    return None if value == params["value"] else f"has {params['name']} = {value}"


def _broadcast_add(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    for one, other in ((0, 1), (1, 0)):
        product, addend = _input(op, one), _input(op, other)
        maker = product and view.producer.get(product.index)
        if (
            product
            and addend
            and maker
            and maker.name == params["producer"]
            and not view.constant(addend)
            and addend.shape != product.shape
        ):
            return f"adds {_text(addend)} to the {_text(product)} of a {maker.name}"
    return None


def _output_also_read(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    if len(view.activations(op)) < 2 or not op.outputs or op.outputs[0].index not in view.outputs:
        return None
    readers = sorted({reader.name for reader in view.readers[op.outputs[0].index]})
    return f"is an output of the graph that {', '.join(readers)} also reads" if readers else None


def _int8_linear_into_add(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    source, weights = _input(op, 0), _input(op, 1)
    if (
        op.name != "FULLY_CONNECTED"
        or source is None
        or weights is None
        or weights.dtype != "int8"
        or len(source.shape) != 3
    ):
        return None
    added = any(reader.name == "ADD" for tensor in op.outputs for reader in view.readers[tensor.index])
    return f"with {_text(weights)} weights feeds an ADD" if added else None


def _dequantized_constant(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    source = _input(op, 0)
    return (
        f"turns constant {_text(source)} into float"
        if op.name == "DEQUANTIZE" and source and source.constant and source.dtype in params["dtypes"]
        else None
    )


def _rank_mismatch(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    activations = view.activations(op)
    if len(activations) != 2 or not op.outputs or len({len(tensor.shape) for tensor in activations}) == 1:
        return None
    lower = min(activations, key=lambda tensor: len(tensor.shape))
    # Alignment is no matter for a leading 1, for as many elements, or for a second input that is only repeated.
    same_size = math.prod(activations[0].shape) == math.prod(activations[1].shape)
    if lower.shape[:1] in ((), (1,)) or same_size or activations[0].shape == op.outputs[0].shape:
        return None
    return f"joins {_text(activations[0])} and {_text(activations[1])}"


def _rank_mismatch_constant(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    activations = view.activations(op)
    constants = [tensor for tensor in op.inputs if tensor is not None and view.constant(tensor)]
    if len(activations) != 1 or len(constants) != 1 or len(activations[0].shape) != params["rank"]:
        return None
    activation, constant = activations[0], constants[0]
    higher = len(constant.shape) > len(activation.shape) > 1 and activation.shape[0] != 1
    return f"joins {_text(activation)} and a constant {_text(constant)}" if higher else None


def _layer_scale(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    scales = [tensor for tensor in op.inputs if tensor is not None and view.constant(tensor)]
    if len(scales) != 1 or not op.outputs:
        return None
    scale, scaled = scales[0], op.outputs[0]
    # RoPE's tables also multiply before an ADD, but they vary along the tokens; LayerScale is one number per channel.
    if not scale.shape or scale.shape[-1] == 1 or math.prod(scale.shape) != scale.shape[-1]:
        return None
    residual = any(
        reader.name == "ADD"
        and any(other.index != scaled.index and other.shape == scaled.shape for other in view.activations(reader))
        for reader in view.readers[scaled.index]
    )
    return f"scales {_text(scaled)} per channel before an ADD" if residual else None


def _gather_indices(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    indices = _input(op, 1)
    return (
        f"has indices {_text(indices)}" if indices and (indices.dtype != "int32" or len(indices.shape) != 1) else None
    )


def _half_table(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    table = _input(op, 1)
    half = table and (table.dtype == "float16" or view.behind_dequantize(table))
    return f"reads a table of float16, {_text(table)}" if table and half else None


def _lookup_into_add(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    add = next((reader for out in op.outputs for reader in view.readers[out.index] if reader.name == "ADD"), None)
    return f"is read by ADD (operation {add.index})" if add else None


def _wide_sum(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    source, axes = _input(op, 0), _input(op, 1)
    if source is None or axes is None or axes.offset is None or not op.outputs:
        return None
    elements = math.prod(source.shape) // max(1, math.prod(op.outputs[0].shape))
    wide = math.prod(axes.shape) >= params["axes"] and elements >= params["elements"]
    return f"adds up {elements} elements over axes {axes.value().ravel().tolist()}" if wide else None


def _version_above(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    loads, takes = (params[table].get(op.name) for table in ("interpreter", "delegate"))
    if op.kind != "builtin" or loads is None:
        return None
    if op.version > loads:
        return f"is version {op.version}, newer than this runtime, which takes up to {loads}"
    return f"is version {op.version}, and ML Drift takes up to {takes}" if takes and op.version > takes else None


def _pad_first_axis(view: _View, op: Op, params: Mapping[str, Any]) -> str | None:
    source, paddings = _input(op, 0), _input(op, 1)
    if source is None or len(source.shape) not in (3, 4):
        return None
    if len(source.shape) == 3 and source.shape[0] != 1:
        return f"reads {_text(source)}, of rank 3 and with a first axis that is not 1"
    if source.shape[0] != 1 or paddings is None or paddings.offset is None or not paddings.value().ravel()[:2].any():
        return None
    return f"pads the first axis of {_text(source)}"


PREDICATES: Mapping[str, Callable[[_View, Op, Mapping[str, Any]], str | None]] = {
    "always": _always,
    "broadcast_add": _broadcast_add,
    "builtin_outside": _builtin_outside,
    "constant_input": _constant_input,
    "constant_inputs": _constant_inputs,
    "dequantized_constant": _dequantized_constant,
    "dtype": _dtype,
    "gather_indices": _gather_indices,
    "half_table": _half_table,
    "identical_inputs": _identical_inputs,
    "input_rank_outside": _input_rank_outside,
    "int8_linear_into_add": _int8_linear_into_add,
    "kind": _kind,
    "layer_scale": _layer_scale,
    "lookup_into_add": _lookup_into_add,
    "option_not": _option_not,
    "option_set": _option_set,
    "output_also_read": _output_also_read,
    "output_rank": _output_rank,
    "pad_first_axis": _pad_first_axis,
    "rank_above": _rank_above,
    "rank_mismatch": _rank_mismatch,
    "rank_mismatch_constant": _rank_mismatch_constant,
    "runtime_operand": _runtime_operand,
    "version_above": _version_above,
    "wide_sum": _wide_sum,
}


def _open_shape(graph: Graph) -> str | None:
    tensors = (*graph.inputs, *(tensor for op in graph.ops for tensor in _tensors(op)))
    found = next((tensor for tensor in tensors if min((*tensor.shape, *tensor.shape_signature), default=0) < 0), None)
    return (
        f"{graph.path.name} leaves the shape of '{found.name}' open, {list(found.shape_signature)}" if found else None
    )


def _several_subgraphs(graph: Graph) -> str | None:
    named = {signature.subgraph for signature in graph.signatures} or {0}
    if graph.subgraphs == len(named):
        return None
    return f"{graph.path.name} holds {graph.subgraphs} subgraphs, and its signatures name {len(named)} of them"


GRAPH_PREDICATES: Mapping[str, Callable[[Graph], str | None]] = {
    "open_shape": _open_shape,
    "several_subgraphs": _several_subgraphs,
}
