"""The ranges of activations: widened by every sample, with headroom, and wide enough for every bias."""

import numpy as np
import pytest
from ai_edge_quantizer import quantizer

from pecore.convert.quantize import HEADROOM, quantize, recipe
from pecore.convert.ranges import calibrate, fit_biases, overflowing, with_headroom
from pecore.validate.gates import cpu_gate
from pecore.validate.graph import read_graph


@pytest.fixture(scope="module")
def graph(converted):
    return read_graph(converted.files["fp32", True])


@pytest.fixture(scope="module")
def ranges(converted):
    """On the photographs, by how many of them."""
    made = quantizer.Quantizer(str(converted.files["fp32", True]), recipe("a16w8"))
    return {n: calibrate(made, converted.inputs[:n]) for n in (1, len(converted.inputs))}


def test_every_sample_widens(ranges):
    first, every = ranges[1], ranges[max(ranges)]
    assert all(np.all(every[name]["max"] >= seen["max"]) for name, seen in first.items() if seen)
    assert all(np.all(every[name]["min"] <= seen["min"]) for name, seen in first.items() if seen)
    assert any(np.any(every[name]["max"] > seen["max"]) for name, seen in first.items() if seen)


def test_headroom_is_for_every_activation_and_no_constant(graph, ranges):
    constants = {tensor.name for op in graph.ops for tensor in op.inputs if tensor is not None and tensor.constant}
    wider = with_headroom(ranges[1], 4.0)
    assert wider
    assert not wider.keys() & constants
    for name, seen in ranges[1].items():
        np.testing.assert_array_equal(wider[name]["min"], 4 * seen["min"])
        np.testing.assert_array_equal(wider[name]["max"], 4 * seen["max"])


def test_the_linear_that_writes_the_massive_activations_overflows_until_it_is_fitted(graph, ranges):
    (name,) = overflowing(graph, ranges[max(ranges)])
    assert "Block_1" in name
    assert "fc2" in name
    assert not overflowing(graph, ranges[max(ranges)], bits=8)
    fitted = fit_biases(graph, ranges[max(ranges)])
    assert not overflowing(graph, fitted)
    changed = {name for name, seen in fitted.items() if seen is not ranges[max(ranges)][name]}
    assert len(changed) == 1


def test_a_wider_range_reaches_the_op_that_sets_the_scale(graph, ranges):
    """`proj` reads a RESHAPE of a TRANSPOSE: both have the scale of the product before them."""
    ranges = dict(ranges[1])
    proj = next(op for op in graph.ops if op.name == "FULLY_CONNECTED" and "Linear_proj" in op.outputs[0].name)
    tiny = {"min": np.float32([-1e-9]), "max": np.float32([1e-9])}
    producer = {tensor.index: op for op in graph.ops for tensor in op.outputs}
    before, chain = producer[proj.inputs[0].index], [proj.inputs[0].name]
    while before.name != "BATCH_MATMUL":
        chain.append(before.inputs[0].name)
        before = producer[before.inputs[0].index]
    assert len(chain) == 3
    ranges |= dict.fromkeys(chain, tiny)
    assert proj.outputs[0].name in overflowing(graph, ranges)
    fitted = fit_biases(graph, ranges)
    assert proj.outputs[0].name not in overflowing(graph, fitted)
    assert len({float(fitted[name]["max"][0]) for name in chain}) == 1


def test_a_bias_that_overflows_is_another_number(converted, graph, ranges, tmp_path):
    """What the quantizer makes of such ranges, and what fitted ones save. 0.95 or less and 0.9995 or more were seen;
    between them is room for any CPU's rounding."""
    source, cosines = converted.files["fp32", True], {}
    for fitted in (False, True):
        chosen = fit_biases(graph, ranges[max(ranges)]) if fitted else ranges[max(ranges)]
        target = tmp_path / f"{fitted}.tflite"
        quantizer.Quantizer(str(source), recipe("a16w8")).quantize(chosen).export_model(str(target))
        check, _ = cpu_gate(target, "a16w8", converted.inputs, converted.reference)
        cosines[fitted] = check.figures["cosine"]
    assert cosines[False] < 0.98
    assert cosines[True] > 0.998


def test_ranges_from_one_photograph_hold_for_the_others(converted, tmp_path):
    target = tmp_path / "a16w8.tflite"
    quantize(converted.files["fp32", True], target, "a16w8", converted.inputs[:1])
    check, _ = cpu_gate(target, "a16w8", converted.inputs[1:], converted.reference[1:])
    assert HEADROOM > 1
    assert check.outcome == "passed", check.detail
