"""Weights in, judged bundle out."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convert import bundle
from convert.checkpoint import load
from convert.variants import Variant
from pecore import conversion
from pecore.conversion import Options, Result, convert
from pecore.errors import GateError, InputError
from pecore.runtime import open_model
from rewrites.tower import Scales
from validate import gates, rules

FP16 = Options(gpu="skip")


def _quiet(stage: str) -> None:
    pass


def _files(folder: Path) -> dict[str, str]:
    return {p.name: bundle.sha256(p) for p in folder.iterdir()}


def test_what_is_written(tiny_result: Result) -> None:
    assert tiny_result.passed
    name = tiny_result.manifest["name"]
    assert tiny_result.folder.name == name == "pe_core_tiny_384"
    models = {f"{name}_{p}.tflite" for p in ("fp16", "int8", "fp32")}
    others = {"manifest.json", "report.json", "MODEL_CARD.md", "reference.npz", "headroom.png"}
    assert {p.name for p in tiny_result.folder.iterdir()} == models | others
    assert [p.name for p in tiny_result.folder.parent.iterdir()] == [name]


def test_manifest(tiny_result: Result, tiny: Variant) -> None:
    manifest = json.loads((tiny_result.folder / "manifest.json").read_text("utf-8"))
    assert manifest == tiny_result.manifest
    assert manifest["variant"] == asdict(tiny)
    for name, file in manifest["files"].items():
        path = tiny_result.folder / name
        assert (file["sha256"], file["bytes"]) == (bundle.sha256(path), path.stat().st_size)
        assert name == f"{tiny.artefact}_{file['precision']}.tflite"
    assert {f["precision"]: f["ops"] for f in manifest["files"].values()} == {"fp16": 87, "int8": 80, "fp32": 76}
    assert manifest["input"] == {
        "name": "image",
        "dtype": "float32",
        "shape": [1, 3, 64, 64],
        "layout": "nchw",
        "range": "-1..1",
    }
    assert (manifest["signature"], manifest["output"]["name"]) == ("serving_default", "embedding")
    assert manifest["output"]["shape"] == [1, tiny.embedding_dim]
    weights = manifest["weights"]
    assert (weights["synthetic"], weights["seed"], weights["amplitude"], weights["kind"]) == (True, 0, 400, "synthetic")
    assert (manifest["logit_scale"], manifest["preprocessing"]["resize"]) == (100.0, "squash")
    assert set(manifest["scales"]) == set(vars(Scales()))
    assert {g["outcome"] for g in manifest["gates"]} == {"passed", "skipped"}


def test_report(tiny_result: Result) -> None:
    report = json.loads((tiny_result.folder / "report.json").read_text("utf-8"))
    assert report == tiny_result.report
    assert (report["verdict"], report["name"]) == ("passed", tiny_result.manifest["name"])
    assert report["versions"] == tiny_result.manifest["versions"]
    assert report["images"][:2] == ["astronaut", "cat"]
    found = [(g["gate"], g["subject"].removeprefix("pe_core_tiny_384_"), g["outcome"]) for g in report["gates"]]
    assert found == [
        ("headroom", "tower", "passed"),
        ("exact", "tower", "passed"),
        ("exact", "tower with norm weights kept", "passed"),
        *(
            (gate, f"{precision}.tflite", "skipped" if gate == "gpu" else "passed")
            for precision in ("fp16", "int8", "fp32")
            for gate in ("graph", "cpu", "gpu")
        ),
    ]
    for gate in report["gates"]:
        assert set(gate["thresholds"]) <= set(gate["figures"])


def test_model_card(tiny_result: Result) -> None:
    card = (tiny_result.folder / "MODEL_CARD.md").read_text("utf-8")
    assert "Synthetic weights" in card
    assert "classifies nothing" in card
    for name, file in tiny_result.manifest["files"].items():
        assert name in card
        assert file["sha256"] in card


def test_reference_samples_are_what_the_files_compute(tiny_result: Result) -> None:
    with np.load(tiny_result.folder / "reference.npz") as stored:
        images, embeddings = stored["image"], stored["embedding"]
    assert images.shape == (2, 1, 3, 64, 64)
    model = open_model(tiny_result.folder / "pe_core_tiny_384_fp32.tflite")
    for image, embedding in zip(images, embeddings):
        np.testing.assert_allclose(model.run({"image": image})["embedding"], embedding, atol=2e-6)


def test_the_same_flags_give_the_same_bytes(tiny_result: Result, tiny: Variant, tmp_path: Path) -> None:
    """Another run, export and all; that it keeps fewer files changes none of them."""
    stages: list[str] = []
    again = convert(tiny, load(tiny, "synthetic"), tmp_path / "out" / tiny.artefact, FP16, stages.append)
    ours, first = _files(again.folder), _files(tiny_result.folder)
    name = f"{tiny.artefact}_fp16.tflite"
    assert ours[name] == first[name]
    assert {p for p in ours if p.endswith(".tflite")} == {name}  # the float32 one was a step
    assert ours["reference.npz"] == first["reference.npz"]
    assert again.manifest["files"][name] == tiny_result.manifest["files"][name]
    assert any("float32 .tflite" in stage for stage in stages)
    assert any("quantizing to fp16" in stage for stage in stages)


@pytest.mark.usefixtures("without_export")
def test_a_failed_gate_goes_beside_the_target(tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / tiny.artefact
    weights = load(tiny, "synthetic")
    good = convert(tiny, weights, target, FP16, _quiet)
    before = _files(target)
    assert good.passed

    monkeypatch.setattr(gates, "THRESHOLDS", {**gates.THRESHOLDS, ("cpu", "fp16"): {"cosine": 1.1}})
    bad = convert(tiny, weights, target, FP16, _quiet)
    assert not bad.passed
    assert bad.folder == tmp_path / "pe_core_tiny_384.rejected"
    assert _files(target) == before
    report = json.loads((bad.folder / "report.json").read_text("utf-8"))
    assert report["verdict"] == "failed"
    assert [g["gate"] for g in report["gates"] if g["outcome"] == "failed"] == ["cpu"]
    assert "must be >= 1.1" in (bad.folder / "MODEL_CARD.md").read_text("utf-8")


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize("error", [RuntimeError("converter broke"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_error_on_the_way_leaves_nothing(
    error: BaseException, tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def quantize(source: Path, target: Path, precision: str) -> None:
        seen.extend(p.name for p in tmp_path.iterdir())
        target.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(conversion, "quantize", quantize)
    with pytest.raises(type(error)):
        convert(tiny, load(tiny, "synthetic"), tmp_path / tiny.artefact, FP16, _quiet)
    assert len(seen) == 1  # it was there, under a name of its own
    assert seen[0].startswith(f".{tiny.artefact}.")
    assert not list(tmp_path.iterdir())


def test_images_are_read_before_anything_is_converted(
    tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "build_tower", lambda *_: pytest.fail("the work started"))
    with pytest.raises(InputError, match="none is not a folder"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "out", replace(FP16, images=tmp_path / "none"), _quiet)
    assert not list(tmp_path.iterdir())


def test_images_of_one_s_own(tiny: Variant, tmp_path: Path, shots: list[Image.Image], without_export: None) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    shots[1].save(folder / "chelsea.png")
    shots[3].convert("L").save(folder / "grey rocket.jpg")
    result = convert(tiny, load(tiny, "synthetic"), tmp_path / "out", replace(FP16, images=folder), _quiet)
    assert result.passed
    assert result.report["images"] == ["chelsea.png", "grey rocket.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ("fp16", "int4")}, "unknown precision int4; choose from fp16, int8, fp32"),
        ({"precisions": ()}, "unknown precision list: it is empty"),
        ({"input_layout": "chw"}, "unknown input layout chw; choose from nchw, nhwc"),
        ({"input_range": "0-1"}, r"unknown input range 0-1; choose from -1\.\.1, 0\.\.1, 0\.\.255"),
        ({"gpu": "yes"}, "unknown gpu choice yes; choose from auto, require, skip"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_an_unknown_runtime_leaves_nothing(tiny: Variant, tmp_path: Path, without_export: None) -> None:
    with pytest.raises(InputError, match=r"runtime '1\.0' is not one that the rules know"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "out", replace(FP16, runtime="1.0"), _quiet)
    assert not list(tmp_path.iterdir())
    assert rules.runtimes()[-1] == FP16.runtime


def test_a_gpu_that_is_required_and_not_there(tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the work starts."""
    monkeypatch.setattr(conversion, "probe", lambda: None)
    monkeypatch.setattr(conversion, "build_tower", lambda *_: pytest.fail("the work started"))
    with pytest.raises(GateError, match="no GPU adapter: install a software Vulkan driver"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "out", Options(gpu="require"), _quiet)
    assert not list(tmp_path.iterdir())


def test_weights_are_not_touched(tiny: Variant, tmp_path: Path, without_export: None) -> None:
    """A checkpoint's tensors may lie in a memory-mapped file."""
    weights = load(tiny, "synthetic")
    before = {key: tensor.clone() for key, tensor in weights.state_dict.items()}
    convert(tiny, weights, tmp_path / "out", FP16, _quiet)
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights.state_dict.items())
