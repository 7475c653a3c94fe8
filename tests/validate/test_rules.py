"""Every rule fires on a graph with its flaw, and none on a clean one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pecore.errors import InputError
from pecore.validate.graph import Graph, read_graph, read_graphs
from pecore.validate.rules import (
    BLOCKING,
    GRAPH_PREDICATES,
    PREDICATES,
    VERDICTS,
    check,
    check_graphs,
    load_rules,
    runtimes,
)

KNOWN, RULES = load_rules()

# One graph per rule: (builder) -> (inputs, outputs) of a graph that has this flaw and no other.
FLAWS: dict[str, Callable] = {}


def flaw(rule: str) -> Callable[[Callable], Callable]:
    def register(build: Callable) -> Callable:
        assert rule not in FLAWS, rule
        FLAWS[rule] = build
        return build

    return register


def _fp16(b, *shape: int, data: float = 0.5) -> int:
    """A constant as fp16 weights come: float16 behind a DEQUANTIZE."""
    half, full = b.tensor(*shape, dtype="float16", data=data), b.tensor(*shape)
    return b.op("DEQUANTIZE", [half], full, options="DequantizeOptions")


@flaw("op-unsupported")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("L2_NORMALIZATION", [x], y, options="L2NormOptions")
    return [x], [y]


@flaw("relu-0-to-1")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("RELU_0_TO_1", [x], y)
    return [x], [y]


@flaw("custom-op")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("CUSTOM", [x], y, custom="erf")
    return [x], [y]


@flaw("flex-op")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("CUSTOM", [x], y, custom="FlexErf")
    return [x], [y]


@flaw("composite")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("STABLEHLO_COMPOSITE", [x], y, options="StableHLOCompositeOptions", name="our.norm")
    return [x], [y]


@flaw("composite-odml")
def _(b):
    x, scale, y = b.tensor(1, 1, 4, 8), b.tensor(8, data=1), b.tensor(1, 1, 4, 8)
    b.op("STABLEHLO_COMPOSITE", [x, scale], y, options="StableHLOCompositeOptions", name="odml.rms_norm")
    return [x], [y]


@flaw("dtype")
def _(b):
    x, y = b.tensor(1, 4, 8, dtype="int64"), b.tensor(1, 4, 8, dtype="int64")
    b.op("ABS", [x], y, options="AbsOptions")
    return [x], [y]


@flaw("rank")
def _(b):
    x, shape, y = b.tensor(1, 4, 8), b.tensor(5, dtype="int32", data=[1, 2, 2, 2, 4]), b.tensor(1, 2, 2, 2, 4)
    z, perm = b.tensor(1, 2, 2, 2, 4), b.tensor(5, dtype="int32", data=[0, 1, 3, 2, 4])
    w, back = b.tensor(1, 4, 8), b.tensor(3, dtype="int32", data=[1, 4, 8])
    b.op("RESHAPE", [x, shape], y, options="ReshapeOptions", newShape=[1, 2, 2, 2, 4])
    b.op("TRANSPOSE", [y, perm], z, options="TransposeOptions")
    b.op("RESHAPE", [z, back], w, options="ReshapeOptions", newShape=[1, 4, 8])
    return [x], [w]


@flaw("pad-rank")
def _(b):
    x, paddings, y = b.tensor(4, 8), b.tensor(2, 2, dtype="int32", data=[[0, 1], [0, 0]]), b.tensor(5, 8)
    b.op("PAD", [x, paddings], y, options="PadOptions")
    return [x], [y]


@flaw("pad-first-axis")
def _(b):
    x, paddings, y = b.tensor(2, 4, 8), b.tensor(3, 2, dtype="int32", data=[[0, 0], [0, 1], [0, 0]]), b.tensor(2, 5, 8)
    b.op("PAD", [x, paddings], y, options="PadOptions")
    return [x], [y]


def _version(b, name: str, version: int, options: str = "", **values):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op(name, [x, b.tensor(1, 4, 8, data=1)] if name in ("ADD", "SUB") else [x], y, options=options, **values)
    b.codes[-1].version = version
    return [x], [y]


for _group in ("2.1.3", "2.1.6", "2.2.0"):
    flaw(f"op-version-{_group}")(lambda b: _version(b, "SUB", 3, "SubOptions"))


@flaw("runtime-operand")
def _(b):
    x, shape, y = b.tensor(1, 4, 8), b.tensor(2, dtype="int32"), b.tensor(4, 8)
    b.op("RESHAPE", [x, shape], y, options="ReshapeOptions")
    return [x, shape], [y]


@flaw("open-shape")
def _(b):
    x, y = b.tensor(1, 4, 8, signature=(-1, 4, 8)), b.tensor(1, 4, 8, signature=(-1, 4, 8))
    b.op("RELU", [x], y)
    return [x], [y]


@flaw("matmul-constant-left")
def _(b):
    left, x, y = b.tensor(1, 2, 4, 8, data=0.5), b.tensor(1, 2, 8, 4), b.tensor(1, 2, 4, 4)
    b.op("BATCH_MATMUL", [left, x], y, options="BatchMatMulOptions")
    return [x], [y]


@flaw("matmul-constant-right")
def _(b):
    x, right, y = b.tensor(1, 2, 4, 8), b.tensor(1, 2, 8, 4, data=0.5), b.tensor(1, 2, 4, 4)
    b.op("BATCH_MATMUL", [x, right], y, options="BatchMatMulOptions")
    return [x], [y]


@flaw("matmul-rank-3")
def _(b):
    x, w, y = b.tensor(2, 4, 8), b.tensor(2, 8, 4), b.tensor(2, 4, 4)
    b.op("BATCH_MATMUL", [x, w], y, options="BatchMatMulOptions")
    return [x, w], [y]


@flaw("matmul-transposed")
def _(b):
    x, w, y = b.tensor(1, 2, 3, 8), b.tensor(1, 2, 5, 8), b.tensor(1, 2, 3, 5)
    b.op("BATCH_MATMUL", [x, w], y, options="BatchMatMulOptions", adjY=True)
    return [x, w], [y]


@flaw("matmul-identical-inputs")
def _(b):
    x, y = b.tensor(1, 2, 4, 4), b.tensor(1, 2, 4, 4)
    b.op("BATCH_MATMUL", [x, x], y, options="BatchMatMulOptions")
    return [x], [y]


@flaw("matmul-broadcast-add")
def _(b):
    x, w, y = b.tensor(1, 2, 4, 8), b.tensor(1, 2, 8, 4), b.tensor(1, 2, 4, 4)
    mask, z = b.tensor(1, 1, 4, 4), b.tensor(1, 2, 4, 4)
    b.op("BATCH_MATMUL", [x, w], y, options="BatchMatMulOptions")
    b.op("ADD", [y, mask], z, options="AddOptions")
    return [x, w, mask], [z]


@flaw("linear-constant-input")
def _(b):
    x, w, y = b.tensor(1, 8, data=0.5), b.tensor(4, 8), b.tensor(1, 4)
    b.op("FULLY_CONNECTED", [x, w, -1], y, options="FullyConnectedOptions")
    return [w], [y]


@flaw("linear-int8-add")
def _(b):
    x, w, y, z = b.tensor(1, 4, 8), b.tensor(8, 8, dtype="int8", data=3, scales=8), b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("FULLY_CONNECTED", [x, w, -1], y, options="FullyConnectedOptions", keepNumDims=True)
    b.op("ADD", [y, x], z, options="AddOptions")
    return [x], [z]


@flaw("linear-int8-add-unproven")
def _(b):
    return FLAWS["linear-int8-add"](b)


@flaw("constant-inputs")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    c, d, e = b.tensor(1, 4, 8, data=2), b.tensor(1, 4, 8, data=3), b.tensor(1, 4, 8)
    b.op("ADD", [c, d], e, options="AddOptions")
    b.op("ADD", [x, e], y, options="AddOptions")
    return [x], [y]


@flaw("constant-inputs-fp16")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    c, d, e = _fp16(b, 1, 4, 8), _fp16(b, 1, 4, 8), b.tensor(1, 4, 8)
    b.op("ADD", [c, d], e, options="AddOptions")
    b.op("ADD", [x, e], y, options="AddOptions")
    return [x], [y]


@flaw("identical-inputs")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("DIV", [x, x], y, options="DivOptions")
    return [x], [y]


@flaw("rank-mismatch")
def _(b):
    x, mask, y = b.tensor(2, 4, 4), b.tensor(1, 1, 4, 4), b.tensor(1, 2, 4, 4)
    b.op("ADD", [x, mask], y, options="AddOptions")
    return [x, mask], [y]


@flaw("rank-mismatch-constant")
def _(b):
    x, y = b.tensor(8, 192), b.tensor(1, 1, 8, 192)
    b.op("MUL", [x, b.tensor(1, 1, 8, 192, data=2)], y, options="MulOptions")
    return [x], [y]


@flaw("add-read-twice")
def _(b):
    x, state, y, z = b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(1, 4, 1)
    axes = b.tensor(1, dtype="int32", data=2)
    b.op("ADD", [x, state], y, options="AddOptions")
    b.op("SUM", [y, axes], z, options="ReducerOptions", keepDims=True)
    return [x, state], [y, z]


@flaw("layer-scale")
def _(b):
    x, h, gamma = b.tensor(1, 4, 8), b.tensor(1, 4, 8), b.tensor(8, data=0.5)
    y, z = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("MUL", [h, gamma], y, options="MulOptions")
    b.op("ADD", [x, y], z, options="AddOptions")
    return [x, h], [z]


@flaw("softmax-beta")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("SOFTMAX", [x], y, options="SoftmaxOptions", beta=0.5)
    return [x], [y]


@flaw("strided-slice-mask")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 8)
    begin, end, step = (b.tensor(3, dtype="int32", data=data) for data in ([0, 0, 0], [1, 1, 8], [1, 1, 1]))
    b.op("STRIDED_SLICE", [x, begin, end, step], y, options="StridedSliceOptions", shrinkAxisMask=2)
    return [x], [y]


@flaw("gather-indices")
def _(b):
    x, indices, y = b.tensor(4, 8), b.tensor(2, 2, dtype="int32", data=1), b.tensor(2, 2, 8)
    b.op("GATHER", [x, indices], y, options="GatherOptions")
    return [x], [y]


@flaw("lookup-half-table")
def _(b):
    ids, table, y = b.tensor(4, dtype="int32"), _fp16(b, 16, 8), b.tensor(4, 8)
    b.op("EMBEDDING_LOOKUP", [ids, table], y)
    return [ids], [y]


@flaw("lookup-into-add")
def _(b):
    ids, table, rows = b.tensor(4, dtype="int32"), b.tensor(16, 8, data=0.5), b.tensor(4, 8)
    b.op("EMBEDDING_LOOKUP", [ids, table], rows)
    y = b.tensor(4, 8)
    b.op("ADD", [rows, b.tensor(4, 8, data=1)], y, options="AddOptions")
    return [ids], [y]


@flaw("reduction-axes")
def _(b):
    x, axes, y = b.tensor(1, 4, 8), b.tensor(1, dtype="int32"), b.tensor(1, 4, 8)
    b.op("SUM", [x, axes], y, options="ReducerOptions", keepDims=True)
    return [x, axes], [y]


@flaw("wide-sum")
def _(b):
    x, axes, y = b.tensor(1, 256, 256, 4), b.tensor(2, dtype="int32", data=[1, 2]), b.tensor(1, 1, 1, 4)
    b.op("SUM", [x, axes], y, options="ReducerOptions", keepDims=True)
    return [x], [y]


@flaw("weight-only")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    w, dequantized = b.tensor(8, 8, dtype="int8", data=3, scales=8), b.tensor(8, 8)
    b.op("DEQUANTIZE", [w], dequantized, options="DequantizeOptions")
    b.op("FULLY_CONNECTED", [x, dequantized, -1], y, options="FullyConnectedOptions", keepNumDims=True)
    return [x], [y]


@flaw("several-subgraphs")
def _(b):
    x, y = b.tensor(1, 4, 8), b.tensor(1, 4, 8)
    b.op("RELU", [x], y)
    return [x], [y]


def _tower(b):
    """What the rewritten towers are made of, in fp16: stem, LayerNorm, RoPE, attention, MLP, pool, L2 normalisation."""
    axis, last, full = b.tensor(1, dtype="int32", data=2), b.tensor(1, dtype="int32", data=-1), (1, 4, 8)
    heads = (1, 2, 4, 4)

    def op(name: str, inputs: list[int], *shape: int, options: str | None = None, **values) -> int:
        options = f"{name.title()}Options" if options is None else options
        return b.op(name, inputs, b.tensor(*shape), options=options, **values)

    def ints(*values: int) -> int:
        return b.tensor(len(values), dtype="int32", data=values)

    def linear(x: int, n_in: int, *shape: int) -> int:
        weights, bias = _fp16(b, shape[-1], n_in), b.tensor(shape[-1], data=0.1)
        return op("FULLY_CONNECTED", [x, weights, bias], *shape, options="FullyConnectedOptions", keepNumDims=True)

    def norm(x: int) -> int:
        mean = op("MEAN", [x, axis], 1, 4, 1, options="ReducerOptions", keepDims=True)
        d = op("SUB", [x, mean], *full)
        scaled = op("MUL", [d, b.tensor(data=1 / 32)], *full)
        variance = op(
            "MEAN", [op("MUL", [scaled, scaled], *full), axis], 1, 4, 1, options="ReducerOptions", keepDims=True
        )
        root = op("RSQRT", [op("ADD", [variance, b.tensor(data=1e-8)], 1, 4, 1)], 1, 4, 1, options="")
        y = op("MUL", [op("MUL", [scaled, root], *full), _fp16(b, 8)], *full)
        return op("ADD", [y, b.tensor(8, data=0.1)], *full)

    def rope(x: int) -> int:
        left = op("SLICE", [x, ints(0, 0, 0, 0), ints(1, 2, 4, 2)], 1, 2, 4, 2)
        right = op("SLICE", [x, ints(0, 0, 0, 2), ints(1, 2, 4, 2)], 1, 2, 4, 2)
        rotated = op("CONCATENATION", [right, left], *heads, axis=3)
        cos, sin = _fp16(b, 1, 1, 4, 4), b.tensor(1, 1, 4, 4, data=0.5)
        return op("ADD", [op("MUL", [x, cos], *heads), op("MUL", [rotated, sin], *heads)], *heads)

    def split(x: int) -> int:
        return op("TRANSPOSE", [op("RESHAPE", [x, ints(1, 4, 2, 4)], 1, 4, 2, 4), ints(0, 2, 1, 3)], *heads)

    image = b.tensor(1, 3, 4, 4)
    nhwc = op("TRANSPOSE", [image, ints(0, 2, 3, 1)], 1, 4, 4, 3)
    stem = op(
        "CONV_2D",
        [nhwc, _fp16(b, 8, 2, 2, 3), b.tensor(8, data=0)],
        1,
        2,
        2,
        8,
        options="Conv2DOptions",
        strideW=2,
        strideH=2,
    )
    tokens = op("RESHAPE", [stem, ints(1, 4, 8)], *full)
    padded = op("PAD", [tokens, b.tensor(3, 2, dtype="int32", data=[[0, 0], [1, 0], [0, 0]])], 1, 5, 8)
    x = op("SLICE", [padded, ints(0, 0, 0), ints(1, 4, 8)], *full)
    x = op("ADD", [x, _fp16(b, 1, 4, 8)], *full)
    h = norm(x)
    q, k, v = rope(split(linear(h, 8, *full))), rope(split(linear(h, 8, *full))), split(linear(h, 8, *full))
    scores = op(
        "BATCH_MATMUL",
        [q, op("TRANSPOSE", [k, ints(0, 1, 3, 2)], 1, 2, 4, 4)],
        1,
        2,
        4,
        4,
        options="BatchMatMulOptions",
    )
    weights = op("SOFTMAX", [scores], 1, 2, 4, 4, beta=1.0)
    mixed = op(
        "TRANSPOSE",
        [op("BATCH_MATMUL", [weights, v], *heads, options="BatchMatMulOptions"), ints(0, 2, 1, 3)],
        1,
        4,
        2,
        4,
    )
    x = op("ADD", [x, linear(op("RESHAPE", [mixed, ints(1, 4, 8)], *full), 8, *full)], *full)
    x = op("ADD", [x, linear(op("GELU", [linear(norm(x), 8, 1, 4, 16)], 1, 4, 16), 16, *full)], *full)
    pooled = op("MEAN", [x, ints(1)], 1, 8, options="ReducerOptions")
    total = op("SUM", [op("MUL", [pooled, pooled], 1, 8), last], 1, 1, options="ReducerOptions", keepDims=True)
    return [image], [op("MUL", [pooled, op("RSQRT", [total], 1, 1, options="")], 1, 8)]


def _graph(build: Callable, builder, path: Path, subgraphs: int = 1) -> Graph:
    inputs, outputs = build(builder)
    return read_graph(builder.write(path, inputs, outputs, subgraphs=subgraphs))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_fires_on_its_flaw_alone(rule, builder, tmp_path):
    graph = _graph(
        FLAWS[rule.id], builder, tmp_path / "flaw.tflite", subgraphs=2 if rule.id == "several-subgraphs" else 1
    )
    for runtime in KNOWN:
        found = {finding.rule: finding for finding in check(graph, runtime)}
        assert (rule.id in found) == rule.holds_for(runtime), runtime
        # The two int8 rules share one graph, each for its versions, and so do those about operations' versions.
        shared = next((name for name in ("linear-int8-add", "op-version-") if rule.id.startswith(name)), rule.id)
        assert all(other.startswith(shared) for other in found.keys() - {rule.id}), runtime
        if rule.id in found:
            finding = found[rule.id]
            assert (finding.verdict, finding.source) == (rule.verdict, rule.source)
            assert f"{rule.reason}; {rule.instead}" in finding.detail
            assert finding.op_index is None or graph.ops[finding.op_index].name == finding.op_name


def test_every_rule_has_a_flaw_and_every_flaw_a_rule():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert set(FLAWS) == {rule.id for rule in RULES}


def test_the_data_names_what_the_code_has():
    assert {rule.when for rule in RULES} == PREDICATES.keys() | GRAPH_PREDICATES.keys()
    assert {rule.verdict for rule in RULES} == set(VERDICTS)
    assert all(rule.source and rule.backend and any(map(rule.holds_for, KNOWN)) for rule in RULES)
    assert {"note"} == set(VERDICTS) - BLOCKING


@pytest.mark.parametrize("runtime", KNOWN)
def test_a_tower_as_we_build_them_is_clean(runtime, builder, tmp_path):
    assert check(_graph(_tower, builder, tmp_path / "tower.tflite"), runtime) == []


def test_constants_are_seen_through_a_dequantize(builder, tmp_path):
    left, x, y = _fp16(builder, 1, 2, 4, 8), builder.tensor(1, 2, 8, 4), builder.tensor(1, 2, 4, 4)
    builder.op("BATCH_MATMUL", [left, x], y, options="BatchMatMulOptions")
    findings = check(read_graph(builder.write(tmp_path / "left.tflite", [x], [y])))
    assert [finding.rule for finding in findings] == ["matmul-constant-left"]


def test_without_its_flaw_a_graph_passes(builder, tmp_path):
    """The nearest sound form of some flaws, so that no rule fires on more than it says."""
    full = (1, 4, 8)
    x, h, y, z, n, out = (builder.tensor(*full) for _ in range(6))
    builder.op("MUL", [h, builder.tensor(data=0.5)], y, options="MulOptions")  # one number, not one per channel
    builder.op("ADD", [x, y], z, options="AddOptions")
    builder.op("ADD", [z, z], n, options="AddOptions")  # ADD may read a tensor twice
    axes = builder.tensor(2, dtype="int32", data=[1, 2])
    total = builder.tensor(1, 1, 1)
    builder.op("SUM", [n, axes], total, options="ReducerOptions", keepDims=True)  # several axes, few elements
    builder.op("MUL", [n, total], out, options="MulOptions")
    rows, table, moved, repeated = (
        builder.tensor(*shape) for shape in ((4, 8), (1, 2, 4, 8), (1, 1, 4, 8), (1, 2, 4, 8))
    )
    builder.op("ADD", [rows, out], moved, options="AddOptions")  # other ranks, as many elements
    builder.op("ADD", [table, rows], repeated, options="AddOptions")  # of lower rank, and second
    assert (
        check(read_graph(builder.write(tmp_path / "sound.tflite", [x, h, rows, table], [moved, repeated])), "2.1.5")
        == []
    )


def test_a_newer_runtime_gets_the_newest_rules_and_a_note(builder, tmp_path):
    graph = _graph(FLAWS["softmax-beta"], builder, tmp_path / "beta.tflite")
    note, *findings = check(graph, "99.0")
    assert (note.rule, note.verdict) == ("runtime-newer", "note")
    assert KNOWN[-1] in note.detail
    assert findings == check(graph, KNOWN[-1]) == check(graph)


@pytest.mark.parametrize("runtime", ["2.1.4", "1.0", "latest", ""])
def test_an_unknown_runtime_is_an_input_error(runtime, builder, tmp_path):
    graph = _graph(_tower, builder, tmp_path / "tower.tflite")
    with pytest.raises(InputError, match=", ".join(runtimes()).replace(".", r"\.")):
        check(graph, runtime)


def test_a_rule_holds_from_since_until_fixed():
    rule = replace(RULES[0], since="2.1.5", fixed="2.2.0")
    assert [version for version in KNOWN if rule.holds_for(version)] == ["2.1.5", "2.1.6"]


PADS = [
    # shape, paddings, whether ML Drift gets it wrong: measured on every runtime, fp16 and fp32
    ((1, 4, 8), [[0, 0], [1, 0], [0, 0]], False),
    ((1, 4, 8), [[0, 0], [1, 1], [0, 2]], False),
    ((2, 4, 8), [[0, 0], [1, 0], [0, 0]], True),
    ((2, 4, 8), [[1, 0], [0, 0], [0, 0]], True),
    ((3, 4, 8), [[0, 0], [0, 0], [0, 0]], True),
    ((1, 4, 8), [[1, 0], [0, 0], [0, 0]], True),
    ((1, 4, 8), [[0, 1], [0, 0], [0, 0]], True),
    ((1, 4, 4, 8), [[0, 0], [1, 0], [0, 1], [0, 0]], False),
    ((1, 4, 4, 8), [[1, 0], [0, 0], [0, 0], [0, 0]], True),
    ((2, 4, 4, 8), [[0, 0], [1, 0], [0, 1], [0, 0]], False),
    ((2, 4, 4, 8), [[1, 0], [0, 0], [0, 0], [0, 0]], False),
]


@pytest.mark.parametrize(("shape", "paddings", "wrong"), PADS)
@pytest.mark.parametrize("name", ["PAD", "PADV2", "MIRROR_PAD"])
def test_pads_that_lose_their_first_axis(name, shape, paddings, wrong, builder, tmp_path):
    x, amounts = builder.tensor(*shape), builder.tensor(len(shape), 2, dtype="int32", data=paddings)
    y = builder.tensor(*(n + a + b for n, (a, b) in zip(shape, paddings)))
    value = [builder.tensor(data=-2)] if name == "PADV2" else []
    options = {"PAD": "PadOptions", "PADV2": "PadV2Options", "MIRROR_PAD": "MirrorPadOptions"}[name]
    builder.op(name, [x, amounts, *value], y, options=options)
    graph = read_graph(builder.write(tmp_path / "pad.tflite", [x], [y]))
    for runtime in KNOWN:
        assert [f.rule for f in check(graph, runtime)] == ["pad-first-axis"] * wrong


def test_no_rule_advises_what_another_refuses():
    """It was once a rule's advice to pad at rank 3."""
    assert all("three or four" not in rule.instead for rule in RULES)


@pytest.mark.parametrize(
    ("name", "options", "version", "runtime", "words"),
    [
        ("SUB", "SubOptions", 2, "2.3.0", None),
        ("SUB", "SubOptions", 3, "2.3.0", "is version 3, and ML Drift takes up to 2"),
        ("LOGISTIC", "", 3, "2.3.0", "is version 3, and ML Drift takes up to 2"),
        ("ABS", "AbsOptions", 5, "2.3.0", None),  # as many as the interpreter takes
        ("ABS", "AbsOptions", 99, "2.3.0", "is version 99, newer than this runtime, which takes up to 5"),
        ("ADD", "AddOptions", 5, "2.1.5", "is version 5, and ML Drift takes up to 2"),
        ("ADD", "AddOptions", 6, "2.1.5", "is version 6, newer than this runtime, which takes up to 5"),
        ("ADD", "AddOptions", 6, "2.1.6", None),
    ],
)
def test_an_operation_that_is_too_new(name, options, version, runtime, words, builder, tmp_path):
    inputs, outputs = _version(builder, name, version, options)
    findings = check(read_graph(builder.write(tmp_path / "new.tflite", inputs, outputs)), runtime)
    assert [f.op_name for f in findings] == ([name] if words else [])
    if words:
        assert words in findings[0].detail


def test_every_signature_is_checked(builder, tmp_path):
    """A flaw in the second one alone."""
    x, y = builder.tensor(1, 4, 8), builder.tensor(1, 4, 8)
    builder.op("RELU", [x], y)
    other = type(builder)()
    inputs, outputs = FLAWS["softmax-beta"](other)
    path = builder.write(tmp_path / "two.tflite", [x], [y], second=("decode", other, inputs, outputs))
    graphs = read_graphs(path)
    assert [graph.key for graph in graphs] == ["serving_default", "decode"]
    assert [op.name for graph in graphs for op in graph.ops] == ["RELU", "SOFTMAX"]
    assert check(graphs[0]) == []
    (finding,) = check_graphs(graphs)
    assert (finding.rule, finding.signature) == ("softmax-beta", "decode")
    assert finding.detail.startswith("in signature decode, SOFTMAX (op 0)")
