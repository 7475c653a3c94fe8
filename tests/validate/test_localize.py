"""`validate.localize` and `validate.expose`, against faults put where they are to be found."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.errors import GateError, InputError
from pecore.files import json_ready
from pecore.image import preprocess
from pecore.rewrites.tower import Tower, rewrite
from pecore.runtime import open_model
from pecore.validate.expose_tensors import expose
from pecore.validate.gpu import one_op_model
from pecore.validate.graph import read_graph
from pecore.validate.localize import compare, cpu_runner, file_reference, localize, steps, torch_reference
from pecore.validate.photographs import photographs
from pecore.variants import find

TINY = dataclasses.replace(find("T16"), depth=2, image_size=64)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def tower() -> Tower:
    return rewrite(build_tower(TINY, synthetic_state_dict(TINY, amplitude=50.0)))


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return {"image": preprocess(next(photographs())[1], TINY.image_size)}


@pytest.fixture(scope="module")
def file(tower, inputs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tower") / "tower.tflite"
    export_tflite(tower, {"image": torch.from_numpy(inputs["image"])}, path)
    return path


@pytest.fixture
def flipped(file, tmp_path) -> Path:
    """The file with the sign of block 1's qkv weights turned."""
    path = Path(shutil.copy(file, tmp_path / "flipped.tflite"))
    linear = next(op for op in read_graph(path).ops if "Block_1" in op.outputs[0].name and "_qkv" in op.outputs[0].name)
    weights = linear.inputs[1]
    np.memmap(path, np.float32, "r+", weights.offset, weights.shape)[:] *= -1
    return path


def test_parts_and_steps_are_the_tower_s_own(file):
    found = steps(read_graph(file))
    assert list(dict.fromkeys(step.part for step in found)) == ["stem", "Block 0", "Block 1", "norm", "pool", "head"]
    inside = [step.name for step in found if step.part == "Block 1"]
    assert [name for name in dict.fromkeys(inside) if name != "attn"] == [
        *("norm1", "attn.qkv", "attn.rope", "attn.rope.swap", "attn.scores", "attn.softmax", "attn.context"),
        *("attn.proj", "residual", "norm2", "mlp.fc1", "mlp.act", "mlp.fc2"),
    ]
    assert inside[-1] == "residual"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # the quantizer leaves weights behind the flatbuffer
def test_exposing_changes_nothing(file, inputs, tmp_path, precision):
    path = file
    if precision == "fp16":
        quantize(file, path := tmp_path / "fp16.tflite", "fp16")
    graph = read_graph(path)
    some = steps(graph)[::5]
    names = expose(graph, [step.tensor for step in some], tmp_path / "exposed.tflite")
    exposed = open_model(tmp_path / "exposed.tflite")
    assert set(exposed.outputs) == {"embedding", *names.values()}
    assert [exposed.outputs[names[step.tensor.index]].shape for step in some] == [step.tensor.shape for step in some]
    before, after = open_model(path).run(inputs), exposed.run(inputs)
    # An op whose output is shown is not fused with the next: rounding in float32, of a vector of length 1.
    np.testing.assert_allclose(after["embedding"], before["embedding"], atol=1e-6, rtol=0)


def test_a_file_without_a_signature_can_be_looked_into(tmp_path):
    source, target = tmp_path / "one.tflite", tmp_path / "exposed.tflite"
    source.write_bytes(one_op_model())
    graph = read_graph(source)
    names = expose(graph, [steps(graph)[0].tensor], target)
    outputs = open_model(target).run({"x": np.zeros((1, 4), np.float32)})
    assert {name: array.tolist() for name, array in outputs.items()} == {"y": [[0.5] * 4], names[1]: [[0.5] * 4]}


def test_weights_in_another_file_are_refused(builder, tmp_path):
    builder.external = [schema.ExternalBufferT()]
    x, y = builder.tensor(1, 4), builder.tensor(1, 4)
    builder.op("LOGISTIC", [x], y)
    graph = read_graph(builder.write(tmp_path / "m.tflite", [x], [y]))
    with pytest.raises(InputError, match="in another file"):
        expose(graph, list(graph.outputs), tmp_path / "exposed.tflite")


def test_a_sound_file_is_found_sound(file, tower, inputs):
    found = localize(file, inputs, {}, ("PyTorch", torch_reference(tower, inputs)), log=quiet)
    assert found.sound
    assert found.first == {"cpu": None}
    # Every part has its module's output to be held against; float32 sums in another order are all the difference.
    assert all(row.errors["cpu"].size < 1e-5 for row in found.parts)


@pytest.mark.parametrize("reference", ["PyTorch", "file"])
def test_flipped_weights_are_found_in_their_block_and_layer(file, flipped, tower, inputs, reference):
    held = torch_reference(tower, inputs) if reference == "PyTorch" else file_reference(file, inputs)
    found = localize(flipped, inputs, {}, (reference, held), log=quiet)
    assert not found.sound
    step = found.first["cpu"].step
    assert (step.part, step.name, step.op.name) == ("Block 1", "attn.qkv", "FULLY_CONNECTED")
    assert {row.step.part for row in found.inside} == {"Block 1"}


def test_torch_reference_leaves_out_a_module_that_is_called_twice(file, tower, inputs):
    """RoPE is one module for all blocks: its last output is not what block 0's was."""
    some = steps(read_graph(file))
    known = torch_reference(tower, inputs)(some)
    names = {step.name for step in some if step.tensor.index in known}
    assert "attn.rope" not in names
    assert {"norm1", "attn.qkv", "attn.scores", "mlp.fc2", "residual"} <= names


def test_backends_are_held_against_the_cpu(file, inputs):
    def overflowing(path, arrays):
        outputs = cpu_runner(path, arrays)
        graph = read_graph(path)
        late = {t.name for op in graph.ops for t in op.outputs if op.name == "RESHAPE" and "exposed" in t.name}
        for name in sorted(late, key=lambda n: int(n.partition("_")[2]))[-3:]:
            outputs[name].flat[7 % outputs[name].size] = np.inf
        return outputs

    def absent(path, arrays):
        raise InputError("no adapter")

    def refusing(path, arrays):
        raise GateError("50 of 1001 ops on the GPU")

    runners = {"good": cpu_runner, "bad": overflowing, "absent": absent, "refusing": refusing}
    found = localize(file, inputs, runners, log=quiet)
    assert found.columns == {"good": "good against LiteRT CPU", "bad": "bad against LiteRT CPU"}
    assert found.skipped == {"absent": "no adapter"}
    assert found.broken == {"refusing": "50 of 1001 ops on the GPU"}
    assert found.first["good"] is None
    assert found.first["bad"].step.part == "norm"  # the first of the last three parts
    assert [row.errors["bad"].nonfinite for row in found.parts] == [0, 0, 0, 1, 1, 1]
    assert json_ready(found.as_dict())["parts"][-1]["errors"]["bad"]["size"] == "inf"
    assert not found.sound
    with pytest.raises(InputError, match=r"nothing to compare tower.tflite with \(no adapter\)"):
        localize(file, inputs, {"absent": absent}, log=quiet)


def test_a_graph_whose_names_tell_nothing_is_cut_into_runs_of_ops(builder, tmp_path):
    def chain(path: Path, fault: float) -> Path:
        builder.__init__()
        x = last = builder.tensor(1, 8)
        for i in range(16):
            addend = builder.tensor(1, 8, data=fault if i == 10 else 1.0)
            last = builder.op("ADD", [last, addend], builder.tensor(1, 8), options="AddOptions")
        return builder.write(path, [x], [last])

    sound, wrong = chain(tmp_path / "sound.tflite", 1.0), chain(tmp_path / "wrong.tflite", 3.0)
    inputs = {"in0": np.zeros((1, 8), np.float32)}
    found = localize(wrong, inputs, {}, ("sound.tflite", file_reference(sound, inputs)), log=quiet)
    assert len(found.parts) == 4
    assert found.first["cpu"].step.op.index == 10
    assert found.first["cpu"].step.part == "ADD (op 8) on"


# What each figure sees, and does not


@pytest.fixture
def stream() -> np.ndarray:
    """A residual stream [tokens, channels] with one massive channel."""
    x = np.random.default_rng(0).standard_normal((17, 64)).astype(np.float32)
    x[:, 5] = 400
    return x


def test_channel_error_sees_behind_a_massive_channel(stream):
    ruined = stream.copy()
    ruined[:, :5] = ruined[:, 6:11]
    ruined[:, 6:] = np.roll(ruined[:, 6:], 1, axis=0)
    error = compare(stream, ruined)
    assert error.correlation > 0.999
    assert error.relative < 0.05
    assert error.channel > 1
    assert error.size == error.channel


def test_relative_error_sees_a_wrong_scale(stream):
    error = compare(stream, 1.5 * stream)
    assert error.correlation == pytest.approx(1)
    assert error.relative == pytest.approx(0.5, rel=1e-5)


def test_infinity_counts_unless_the_reference_has_it(stream):
    actual, reference = stream.copy(), stream.copy()
    actual[3, 3:5], reference[3, 3] = np.inf, np.inf
    assert compare(reference, actual).nonfinite == 1
    assert compare(reference, actual).size == np.inf
    actual[3, 4] = stream[3, 4]
    assert compare(reference, actual).size == 0


def test_silence_is_compared_too():
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert compare(zeros, zeros).size == 0
    assert compare(zeros, ones).size == np.inf
    assert json_ready(compare(zeros, ones).as_dict()) == {
        **{"nonfinite": 0, "correlation": None, "relative": "inf", "channel": "inf", "size": "inf"}
    }
    assert compare(ones, zeros).size == 1


# What int8 does to a tower whose LayerNorm weights were folded away (docs/numerics.md)


@pytest.mark.parametrize("kept", [False, True])
def test_int8_without_norm_weights_fails_at_the_first_linear_behind_the_massive_activations(converted, kept):
    inputs = converted.inputs[0]
    reference = "fp32", file_reference(converted.files["fp32", kept], inputs)
    found = localize(converted.files["int8", kept], inputs, {}, reference, log=quiet)
    if kept:
        assert found.sound
        assert max(row.errors["cpu"].size for row in found.parts) < 0.04
    else:
        step = found.first["cpu"].step
        assert (step.part, step.name) == ("Block 2", "attn.qkv")
