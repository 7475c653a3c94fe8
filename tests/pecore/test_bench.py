"""`pecore bench`, the contenders it knows, and the weight cache."""

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from pecore.cli import main
from pecore.convert import baselines as contenders
from pecore.convert.checkpoint import load
from pecore.convert.towers import build_tower
from pecore.errors import InputError
from pecore.image import preprocess
from pecore.runtime import open_model
from pecore.validate import gpu_times
from pecore.validate.ablation_variants import TimmTower
from pecore.validate.gpu import Adapter, GpuRun, Verdict
from pecore.validate.graph import read_graph
from pecore.validate.parity import compare
from pecore.validate.rules import graph_facts as facts
from pecore.variants import Variant


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*args: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return ended.value.code or 0, *capfd.readouterr()

    return run


def test_a_bundle_is_held_against_pytorch(run, tiny_bundle: Path) -> None:
    code, out, _ = run("bench", tiny_bundle, "--rounds", 1, "--threads", 1, "--json")
    content = json.loads(out)
    rows = {row["name"]: row for row in content["rows"]}
    assert code == 0
    assert content["base"] == "PyTorch"
    assert rows["PyTorch"]["ratio"]["median"] == 1
    assert rows["LiteRT fp16"]["cosine"] > 0.99999
    file = next(tiny_bundle.glob("*fp16.tflite"))
    assert rows["LiteRT fp16"]["graph"] == facts(file)
    assert "Synthetic weights." in content["notes"]
    assert any("bench" in note for note in content["notes"]) == bool(contenders.missing())


def test_the_table_names_each_file_once(run, tiny_bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    code, out, _ = run("bench", tiny_bundle, "--rounds", 1)
    assert code == 0
    assert out.count("LiteRT fp16") == out.count("LiteRT int8") == 1
    assert "`pip install 'pecore-litert[bench]'`" in " ".join(out.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("B17",), "neither a bundle's folder nor a size"),
        (("T16", "--rounds", 0), "--rounds 0"),
        (("T16", "--threads", 0), "--threads 0: take 1 or more"),
        (("T16", "--threads", -1), "--threads -1: take 1 or more"),
    ],
)
def test_what_can_not_be_measured_is_said(run, args: tuple[str, ...], words: str) -> None:
    code, _, err = run("bench", *args)
    assert code == 2
    assert words in err


def test_facts_count_each_tensor_once(tiny_bundle: Path) -> None:
    file = next(tiny_bundle.glob("*fp16.tflite"))
    graph, found = read_graph(file), facts(file)
    assert found["ops"] == len(graph.ops)
    assert found["bytes"] == file.stat().st_size
    touched = [t.index for op in graph.ops for t in (*op.inputs, *op.outputs) if t is not None]
    assert found["tensors"] == len(set(touched)) < len(touched)
    assert found["findings"] == {}


@pytest.fixture(scope="module")
def reference(tiny_variant: Variant) -> torch.nn.Module:
    return TimmTower(build_tower(tiny_variant, load(tiny_variant, "synthetic").state_dict), torch.float32).eval()


@pytest.fixture(scope="module")
def image(tiny_variant: Variant) -> np.ndarray:
    return preprocess(data.chelsea(), tiny_variant.image_size)


@pytest.mark.skipif(bool(contenders.missing()), reason="the bench extra is not installed")
def test_every_contender_gives_pytorchs_embedding(reference, image, tiny_bundle: Path, tmp_path: Path) -> None:
    expected = contenders.eager(reference, image, 1)()
    contenders.export_onnx(reference, torch.from_numpy(image), tmp_path / "t.onnx")
    contenders.quantize_onnx(tmp_path / "t.onnx", tmp_path / "t8.onnx")
    # Float32 sums in another order; ours with weights in fp16. ONNX Runtime's int8 is judged as that of the same tower
    # and no more: without VNNI its u8 x s8 kernels saturate at 16 bits (0.994, with VNNI 0.9993).
    runs = {
        "onnxruntime": (contenders.onnx_runtime(tmp_path / "t.onnx", image, 1), 1 - 1e-9),
        "onnxruntime int8": (contenders.onnx_runtime(tmp_path / "t8.onnx", image, 1), 0.95),
        "openvino": (contenders.openvino(tmp_path / "t.onnx", image, 1), 1 - 1e-9),
        "litert": (contenders.litert(next(tiny_bundle.glob("*fp16.tflite")), image, 1), 0.99999),
    }
    for name, (run, least) in runs.items():
        assert compare([expected], [run()]).cosine > least, name
    another = contenders.eager(reference, preprocess(data.coffee(), image.shape[-1]), 1)()
    assert compare([expected], [another]).cosine < 0.8  # what those limits tell apart


def adapter(software: bool) -> Adapter:
    return Adapter("Some GPU", "Discrete GPU", software, None)


def test_a_gpu_is_measured_after_it_is_warm(monkeypatch, image) -> None:
    def run_on_gpu(path: Path, inputs: list) -> GpuRun:
        verdict = Verdict.RAN if path.name == "good" else Verdict.REFUSED
        outputs = tuple({"embedding": np.full(4, i)} for i in range(len(inputs)))
        return GpuRun(verdict, "it was refused", "fp16", "2.3.0", outputs=outputs, run_s=tuple(range(len(inputs))))

    monkeypatch.setattr(gpu_times, "probe", lambda: adapter(software=False))
    monkeypatch.setattr(gpu_times, "run_on_gpu", run_on_gpu)
    files = {"a": Path("good"), "b": Path("bad")}
    found, notes = gpu_times.times_on_gpu(files, image, 3, lambda _: None)
    ((name, (times, output)),) = found.items()
    assert (name, times, output[0]) == ("a on Some GPU, fp16", [2, 3, 4], 4)
    assert notes == ["b did not run on Some GPU: it was refused."]


@pytest.mark.parametrize(("found", "words"), [(None, "No GPU was found"), (adapter(True), "a software driver")])
def test_no_gpu_and_software_have_no_speed(found, words: str, monkeypatch, image) -> None:
    monkeypatch.setattr(gpu_times, "probe", lambda: found)
    rows, (note,) = gpu_times.times_on_gpu({"a": Path("any")}, image, 3, lambda _: None)
    assert rows == {}
    assert words in note


def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda name: None if name == "openvino" else find_spec("json"))
    assert contenders.missing() == ["openvino"]


def test_a_weight_cache_changes_nothing_and_a_changed_file_gets_another(image, tiny_bundle: Path, tmp_path) -> None:
    source = next(tiny_bundle.glob("*fp16.tflite"))
    model = tmp_path / "m.tflite"
    model.write_bytes(source.read_bytes())
    plain = open_model(source, threads=1).run({"image": image})["embedding"]
    cache = tmp_path / "cache"
    for _ in range(2):  # writes it, reads it
        cached = open_model(model, threads=1, weight_cache=cache).run({"image": image})["embedding"]
        np.testing.assert_allclose(cached, plain, atol=1e-6, rtol=0)  # packed for a kernel that may add in its order
    assert len(list(cache.iterdir())) == 1
    os.utime(model, ns=(1, 1))
    open_model(model, threads=1, weight_cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_a_weight_cache_is_the_cpus_and_needs_a_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    file = next(tiny_bundle.glob("*fp16.tflite"))
    with pytest.raises(InputError, match="no weight cache"):
        open_model(file, backend="gpu", weight_cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another folder"):
        open_model(file, weight_cache=tmp_path / "file")
