"""`pecore.runtime` against torch, on a small graph with the towers' signature."""

import os
import sys

import flatbuffers
import numpy as np
import pytest
import skimage.data
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from skimage.transform import resize

from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.runtime import TensorSpec, open_model


class Stem(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 8, kernel_size=8, stride=8)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": torch.nn.functional.gelu(self.patches(image)).mean((2, 3))}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    pixels = resize(skimage.data.astronaut(), (32, 32), anti_aliasing=True)
    return (pixels.transpose(2, 0, 1)[None] * 2 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def stem(tmp_path_factory, image):
    import litert_torch

    path = tmp_path_factory.mktemp("runtime") / "stem.tflite"
    litert_torch.convert(Stem().eval(), sample_kwargs={"image": torch.from_numpy(image)}).export(str(path))
    return path


@pytest.fixture
def expected(image) -> np.ndarray:
    return Stem()(torch.from_numpy(image))["embedding"].detach().numpy()


# float32 on both sides; XNNPACK adds up the 192 products of a patch in another order than torch.
TOLERANCE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_cpu_agrees_with_torch(stem, image, expected, threads):
    model = open_model(stem, threads=threads)
    assert model.inputs == {"image": TensorSpec((1, 3, 32, 32), np.dtype(np.float32))}
    assert model.outputs == {"embedding": TensorSpec((1, 8), np.dtype(np.float32))}
    np.testing.assert_allclose(model.run({"image": image})["embedding"], expected, **TOLERANCE)


def test_tensorflow_agrees_with_torch(stem, image, expected):
    pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")
    model = open_model(stem, backend="tensorflow")
    np.testing.assert_allclose(model.run({"image": image})["embedding"], expected, **TOLERANCE)


def test_an_output_survives_the_next_run(stem, image):
    model = open_model(stem)
    first = model.run({"image": image})["embedding"]
    kept = first.copy()
    model.run({"image": -image})
    np.testing.assert_array_equal(first, kept)


def test_without_a_signature_the_graphs_own_names_serve(stem, image, expected, tmp_path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(stem.read_bytes(), 0))
    model.signatureDefs = None
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name, graph.tensors[graph.outputs[0]].name = "pixels:0", "pooled:0"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(builder.Output())
    np.testing.assert_allclose(open_model(bare).run({"pixels:0": image})["pooled:0"], expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda image: {"image": image[:, :, :16]}, r"\[1, 3, 16, 32\] float32, .*expects \[1, 3, 32, 32\] float32"),
        (lambda image: {"image": image.astype(np.float64)}, r"float64, .*expects \[1, 3, 32, 32\] float32"),
        (lambda image: {"pixels": image}, "takes the inputs image, but was given pixels"),
        (lambda image: {}, "takes the inputs image, but was given none"),
        (lambda image: {"image": image, "mask": image}, "was given image, mask"),
    ],
)
def test_an_input_that_does_not_fit_names_what_does(stem, image, wrong, words):
    with pytest.raises(InputError, match=words):
        open_model(stem).run(wrong(image))


def test_a_name_that_litert_takes_not_is_said(tmp_path, stem):
    path = tmp_path / os.fsdecode(b"caf\xe9.tflite")
    path.write_bytes(stem.read_bytes())
    with pytest.raises(InputError, match="not UTF-8: rename"):
        open_model(path)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tensorflow"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't read"),
        (b"", "is empty"),
        (b"PK\x03\x04 something else", "not a .tflite"),
        ("truncated", "is damaged"),
    ],
)
def test_a_file_that_is_no_model_is_refused(stem, tmp_path, backend, content, words):
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(stem.read_bytes()[:1000] if content == "truncated" else content)
    with pytest.raises(InputError, match=words):
        open_model(path, backend=backend)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(InputError, match="Is a directory"):
        open_model(tmp_path)


@pytest.mark.parametrize(("option", "value"), [("backend", "npu"), ("compute", "bf16"), ("threads", 0)])
def test_an_option_that_does_not_exist_is_named(stem, option, value):
    with pytest.raises(InputError, match=str(value)):
        open_model(stem, **{option: value})


@pytest.mark.parametrize(("compute", "in_fp32"), [("fp16", False), ("fp32", True)])
@pytest.mark.parametrize("through", ["open_model", "PerceptionEncoder"])
def test_compute_reaches_the_gpu(stem, tiny_bundle, monkeypatch, through, compute, in_fp32):
    """As far as LiteRT's own options: a machine without a GPU can ask no more."""
    asked = []

    def from_file(path, options):
        asked.append((options.hardware_accelerators, options.gpu_options.enforce_f32))
        raise RuntimeError("no GPU here")

    monkeypatch.setattr("pecore.runtime.CompiledModel.from_file", from_file)
    opener, what = (open_model, stem) if through == "open_model" else (PerceptionEncoder, tiny_bundle)
    with pytest.raises(InputError, match="no GPU here"):
        opener(what, backend="gpu", compute=compute)
    assert asked == [(HardwareAccelerator.GPU, in_fp32)]


def test_without_tensorflow_the_extra_is_named(stem, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match=r"pecore-litert\[tensorflow\]"):
        open_model(stem, backend="tensorflow")
