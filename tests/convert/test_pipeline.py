"""Weights in, judged bundle out."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pecore.bundle import read_manifest
from pecore.cli.convert import choose_variant
from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.pipeline import Conversion, GateOptions, VisionOptions, bundle_name, convert
from pecore.errors import GateError, InputError
from pecore.files import sha256
from pecore.precision import PRECISIONS, Precision
from pecore.rewrites.output import Output
from pecore.rewrites.tower import Scales
from pecore.runtime import open_model
from pecore.validate import rules
from pecore.validate.bundle import ValidationOptions, validate
from pecore.variants import Variant, find, resized

FP16 = VisionOptions(gpu="skip")


def _quiet(stage: str) -> None:
    pass


def _strict(row: Precision) -> Precision:
    """`row` with a threshold for the CPU gate that nothing passes."""
    return replace(row, unit={**row.unit, "cpu": {"cosine": 1.1, "norm_error": 1.0}})


def _files(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p) for p in folder.iterdir()}


def test_what_is_written(tiny_result: Conversion) -> None:
    assert tiny_result.passed
    name = tiny_result.manifest.name
    assert tiny_result.folder.name == name == "pe_core_tiny_384"
    models = {f"{name}_{p}.tflite" for p in ("fp16", "int8", "fp32")}
    others = {"manifest.json", "report.json", "MODEL_CARD.md", "reference.npz", "headroom.png"}
    assert {p.name for p in tiny_result.folder.iterdir()} == models | others
    assert [p.name for p in tiny_result.folder.parent.iterdir()] == [name]


def test_manifest(tiny_result: Conversion, tiny: Variant) -> None:
    manifest = json.loads((tiny_result.folder / "manifest.json").read_text("utf-8"))
    assert manifest == tiny_result.manifest.as_json()
    assert read_manifest(tiny_result.folder).as_json() == manifest
    assert manifest["variant"] == asdict(tiny)
    for name, file in manifest["files"].items():
        path = tiny_result.folder / name
        assert (file["sha256"], file["bytes"]) == (sha256(path), path.stat().st_size)
        assert name == f"{tiny.artefact}_{file['precision']}.tflite"
    assert {f["precision"]: f["ops"] for f in manifest["files"].values()} == {"fp16": 95, "int8": 88, "fp32": 84}
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


def test_report(tiny_result: Conversion) -> None:
    report = json.loads((tiny_result.folder / "report.json").read_text("utf-8"))
    assert report == tiny_result.report
    assert (report["verdict"], report["name"]) == ("passed", tiny_result.manifest.name)
    assert tiny_result.manifest.vision is not None
    assert report["versions"] == tiny_result.manifest.vision.versions
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


def test_model_card(tiny_result: Conversion) -> None:
    card = (tiny_result.folder / "MODEL_CARD.md").read_text("utf-8")
    assert "Synthetic weights" in card
    assert "classifies nothing" in card
    for name, file in tiny_result.manifest.files.items():
        assert name in card
        assert file.sha256 in card


def test_reference_samples_are_what_the_files_compute(tiny_result: Conversion) -> None:
    with np.load(tiny_result.folder / "reference.npz") as stored:
        images, embeddings = stored["image"], stored["embedding"]
    assert images.shape == (2, 1, 3, 64, 64)
    model = open_model(tiny_result.folder / "pe_core_tiny_384_fp32.tflite")
    for image, embedding in zip(images, embeddings):
        np.testing.assert_allclose(model.run({"image": image})["embedding"], embedding, atol=2e-6)


def test_the_same_flags_give_the_same_bytes(tiny_result: Conversion, tiny: Variant, tmp_path: Path) -> None:
    """Another run, export and all; that it keeps fewer files changes none of them."""
    stages: list[str] = []
    again = convert(tiny, load(tiny, "synthetic"), tmp_path / "out" / tiny.artefact, FP16, stages.append)
    ours, first = _files(again.folder), _files(tiny_result.folder)
    name = f"{tiny.artefact}_fp16.tflite"
    assert ours[name] == first[name]
    assert {p for p in ours if p.endswith(".tflite")} == {name}  # the float32 one was a step
    assert ours["reference.npz"] == first["reference.npz"]
    assert again.manifest.files[name] == tiny_result.manifest.files[name]
    assert any("float32 .tflite" in stage for stage in stages)
    assert any("quantizing to fp16" in stage for stage in stages)


@pytest.mark.usefixtures("without_export")
def test_a_failed_gate_goes_beside_the_target(tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / tiny.artefact
    weights = load(tiny, "synthetic")
    good = convert(tiny, weights, target, FP16, _quiet)
    before = _files(target)
    assert good.passed

    monkeypatch.setitem(PRECISIONS, "fp16", _strict(PRECISIONS["fp16"]))
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

    def write_files(make: Any, inputs: Any, files: dict[str, Path], *others: Any) -> None:
        seen.extend(p.name for p in tmp_path.iterdir())
        files["fp16"].write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(pipeline, "write_files", write_files)
    with pytest.raises(type(error)):
        convert(tiny, load(tiny, "synthetic"), tmp_path / tiny.artefact, FP16, _quiet)
    assert len(seen) == 1  # it was there, under a name of its own
    assert seen[0].startswith(f".{tiny.artefact}.")
    assert not list(tmp_path.iterdir())


def test_images_are_read_before_anything_is_converted(
    tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "build_tower", lambda *_: pytest.fail("the work started"))
    with pytest.raises(InputError, match="none is not a folder"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "out", replace(FP16, images=tmp_path / "none"), _quiet)
    assert not list(tmp_path.iterdir())


def test_integer_activations(tiny: Variant, tmp_path: Path, shots: list[Image.Image]) -> None:
    """Ranges from photographs of one's own; no GPU is asked, and what its rules find is reported only."""
    (tmp_path / "photos").mkdir()
    shots[0].save(tmp_path / "photos" / "one.png")
    options = VisionOptions(("a16w8",), gpu="auto", calibrate=tmp_path / "photos")
    result = convert(tiny, load(tiny, "synthetic"), tmp_path / "out", options, _quiet)
    assert result.passed
    found = {check.gate: check for check in result.checks if check.subject.endswith("_a16w8.tflite")}
    assert found["graph"].outcome == found["gpu"].outcome == "skipped"
    assert found["graph"].detail.startswith("reported only, this is for NPUs: ")
    assert found["gpu"].detail == "made for NPUs: no GPU takes activations of integers"
    assert found["cpu"].figures["cosine"] > 0.999
    again = validate(result.folder, ValidationOptions(gpu="auto"), log=_quiet)
    assert {check.gate: check.outcome for check in again} == {
        **dict.fromkeys(("files", "cpu"), "passed"),
        **dict.fromkeys(("exact", "headroom", "graph", "gpu"), "skipped"),
    }
    missing = VisionOptions(("a16w8",), gpu="skip", calibrate=tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "none", missing, _quiet)


def test_images_of_one_s_own(tiny: Variant, tmp_path: Path, shots: list[Image.Image], without_export: None) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    shots[1].save(folder / "chelsea.png")
    shots[3].convert("L").save(folder / "grey rocket.jpg")
    result = convert(tiny, load(tiny, "synthetic"), tmp_path / "out", replace(FP16, images=folder), _quiet)
    assert result.passed
    assert result.report["images"] == ["chelsea.png", "grey rocket.jpg"]


def test_a_feature_map(tmp_path: Path) -> None:
    """The whole way of a headless tower, in the other layout, two images at a time."""
    variant = replace(find("spatial-T16"), depth=2, image_size=64)
    options = replace(FP16, precisions=("fp32",), input_layout="nhwc", batch=2)
    name = bundle_name(variant, options)
    result = convert(variant, load(variant, "synthetic"), tmp_path / name, options, _quiet)
    assert result.passed, [c.detail for c in result.checks]
    manifest = json.loads((result.folder / "manifest.json").read_text("utf-8"))
    assert manifest["name"] == name == "pe_spatial_tiny_512_batch2"
    assert manifest["input"]["shape"] == [2, 64, 64, 3]
    assert manifest["outputs"] == [manifest["output"]]
    assert (manifest["output"]["name"], manifest["output"]["shape"]) == ("features", [2, 4, 4, 192])
    assert manifest["output"]["meaning"] == "the patch tokens after block 1 of 0 to 1, as a map"
    assert Output(**manifest["tower_output"]) == Output("features")
    assert Variant(**manifest["variant"]) == variant
    assert manifest["logit_scale"] is None
    limits = manifest["self_test"]["thresholds"][f"{name}_fp32.tflite"]["cpu"]
    assert limits["relative_diff"] == 5e-5
    with np.load(result.folder / "reference.npz") as stored:
        assert (stored["image"].shape, stored["features"].shape) == ((2, 2, 64, 64, 3), (2, 2, 4, 4, 192))
    assert "Output `features`: float32 [2, 4, 4, 192]" in (result.folder / "MODEL_CARD.md").read_text("utf-8")


def test_embedding_and_features_of_a_layer(tmp_path: Path) -> None:
    variant = replace(find("T16"), depth=2, image_size=64)
    options = replace(FP16, output="both", layer=-2)
    name = bundle_name(variant, options)
    result = convert(variant, load(variant, "synthetic"), tmp_path / name, options, _quiet)
    assert result.passed, [c.detail for c in result.checks]
    assert name == "pe_core_tiny_384_both_layer0"
    assert result.manifest.vision is not None
    assert [(o.name, list(o.shape)) for o in result.manifest.vision.outputs] == [
        ("embedding", [1, 512]),
        ("features", [1, 192, 4, 4]),
    ]
    (cpu,) = [c for c in result.checks if c.gate == "cpu"]
    assert cpu.figures["features.cosine"] > 0.99999
    assert result.manifest.logit_scale == 100.0


def test_names_tell_outputs_apart() -> None:
    b16, spatial = find("B16"), find("spatial-B16")
    for variant, options, expected in (
        (b16, {}, "pe_core_base_224"),
        (b16, {"output": "features"}, "pe_core_base_224_features"),
        (b16, {"layer": 8}, "pe_core_base_224_features_layer8"),
        (b16, {"output": "both", "layer": -1}, "pe_core_base_224_both"),
        (replace(b16, embedding_dim=37), {}, "pe_core_base_224_logits"),
        (spatial, {}, "pe_spatial_base_512"),
        (spatial, {"layer": -2, "batch": 4}, "pe_spatial_base_512_layer10_batch4"),
        (replace(spatial, embedding_dim=10), {}, "pe_spatial_base_512_logits"),
        (resized(spatial, 256), {}, "pe_spatial_base_256"),
    ):
        assert bundle_name(variant, VisionOptions(**options)) == expected


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ("spatial-B16", {"output": "embedding"}, "spatial-B16 has no pooling and no head to give embedding"),
        ("lang-L14", {"output": "both"}, "no head to give both: choose --output features"),
        ("B16", {"layer": 12}, "no layer 12: the tower has 12 blocks, 0 to 11"),
        ("B16", {"output": "embedding", "layer": 2}, "the output is embedding: choose features or both"),
    ],
)
def test_outputs_that_a_tower_does_not_have(
    size: str, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "build_tower", lambda *_: pytest.fail("the work started"))
    weights = load(replace(find("T16"), depth=1, image_size=64), "synthetic")
    with pytest.raises(InputError, match=message):
        convert(find(size), weights, tmp_path / "out", VisionOptions(**options), _quiet)
    assert not list(tmp_path.iterdir())


def test_a_tower_is_named_in_one_way(tmp_path: Path) -> None:
    assert choose_variant("b16", None, None, None, None) is find("B16")
    assert choose_variant(None, "spatial-b16", None, None, 256).artefact == "pe_spatial_base_256"
    for names in ((None, None, None), ("B16", "core-b16", None)):
        with pytest.raises(InputError, match="towers are named: give one of --size B16"):
            choose_variant(*names, None, None)
    with pytest.raises(InputError, match="--size is for core towers: give --variant spatial-b16"):
        choose_variant("spatial-B16", None, None, None, None)
    tuned = tmp_path / "tuned.safetensors"
    save_file(load(replace(find("spatial-T16"), embedding_dim=7), "synthetic").state_dict, tuned)
    variant = choose_variant(None, None, "vit_pe_spatial_tiny_patch16_512", tuned, None)
    assert variant == replace(find("spatial-T16"), embedding_dim=7)
    assert variant.output == "logits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "tokens"}, "unknown output tokens; choose from embedding, logits, features, both"),
        ({"batch": 0}, "a batch of 0 holds no image"),
        ({"precisions": ("fp16", "int4")}, "unknown precision int4; choose from fp16, fp32, int8, a16w8"),
        (
            {"calibrate": Path("photos")},
            "--calibrate is for precisions with integer activations: add --precision a16w8",
        ),
        ({"precisions": ()}, "unknown precision list: it is empty"),
        ({"input_layout": "chw"}, "unknown input layout chw; choose from nchw, nhwc"),
        ({"input_range": "0-1"}, r"unknown input range 0-1; choose from -1\.\.1, 0\.\.1, 0\.\.255"),
        ({"gpu": "yes"}, "unknown gpu choice yes; choose from auto, require, skip"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VisionOptions(**options)


def test_an_unknown_runtime_is_refused_before_the_work() -> None:
    for options in (VisionOptions, GateOptions, ValidationOptions):
        with pytest.raises(InputError, match=r"runtime '1\.0' is not one that the rules know"):
            options(runtime="1.0")
        assert options().runtime == rules.runtimes()[-1]


def test_a_gpu_that_is_required_and_not_there(tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the work starts."""
    monkeypatch.setattr(pipeline, "probe", lambda: None)
    monkeypatch.setattr(pipeline, "build_tower", lambda *_: pytest.fail("the work started"))
    with pytest.raises(GateError, match="no GPU adapter: install a software Vulkan driver"):
        convert(tiny, load(tiny, "synthetic"), tmp_path / "out", VisionOptions(gpu="require"), _quiet)
    assert not list(tmp_path.iterdir())


def test_weights_are_not_touched(tiny: Variant, tmp_path: Path, without_export: None) -> None:
    """A checkpoint's tensors may lie in a memory-mapped file."""
    weights = load(tiny, "synthetic")
    before = {key: tensor.clone() for key, tensor in weights.state_dict.items()}
    convert(tiny, weights, tmp_path / "out", FP16, _quiet)
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights.state_dict.items())
