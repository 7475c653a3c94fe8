"""`pecore headroom` and `pecore localize` from the command line: exit codes, JSON, files, sentences."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pecore.bundle import FileEntry, Manifest, TensorEntry, VisionSection, file_entry
from pecore.cli import main
from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.towers import build_tower
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate.graph import read_graph
from pecore.variants import find

Run = Callable[..., tuple[int, str, str]]
TINY = dataclasses.replace(find("T16"), depth=2, image_size=64)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """run(arguments...) -> exit code, stdout, stderr."""

    def run(*args: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "t16.safetensors"
    save_file(synthetic_state_dict(find("T16")), path)
    return path


def test_headroom_as_json_with_a_plot(run, photo, tmp_path):
    plot = tmp_path / "h.png"
    code, out, err = run(
        *("headroom", "--size", "T16", "--weights", "synthetic", "--images", photo, "--json", "--save", plot)
    )
    assert code == 0, err
    content = json.loads(out)
    assert "SYNTHETIC" in content["tower"]
    assert content["scales"]["stream"] == 1 / 8
    assert content["enough"]
    assert content["least"]["headroom"] >= 4
    assert content["least"]["headroom"] == min(r["headroom"] for r in content["reductions"])
    norm = next(r for r in content["reductions"] if r["name"] == "blocks.5.norm1")
    assert 390 < norm["peak"] < 420
    assert norm["largest"] == pytest.approx(norm["unscaled"] / 64)
    assert {"blocks.*.attn.proj", "blocks.*.mlp.fc2"} < {kind["kind"] for kind in content["fp16_weights"]}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_headroom_suggests_a_scale_and_says_who_picks_it(run, photo):
    code, out, _ = run(
        *("headroom", "--size", "T16", "--weights", "synthetic", "--images", photo, "--synthetic-amplitude", "8000")
    )
    text = " ".join(out.split())
    assert code == 0
    assert "With the stream's scale 1 alone the least headroom is" in text
    assert "norms get a gain of 1/128 or more; `pecore convert` does that by itself" in text
    assert "lost on a GPU that flushes them): none." in text


def test_headroom_fails_where_no_norm_s_scale_helps(run, photo, checkpoint, tmp_path):
    weights = load_file(checkpoint)
    weights["blocks.3.mlp.fc1.bias"] += 20_000
    save_file(weights, tmp_path / "loud.safetensors")
    code, out, _ = run("headroom", "--size", "T16", "--checkpoint", tmp_path / "loud.safetensors", "--images", photo)
    assert code == 1
    assert "NOT ENOUGH" in out
    assert "blocks.3.mlp.fc1" in out


def test_headroom_of_a_timm_model_is_that_of_its_size(run, photo, checkpoint):
    weights = ("--checkpoint", checkpoint, "--images", photo, "--json")
    by_name = json.loads(run("headroom", "--timm-model", "vit_pe_core_tiny_patch16_384.fb", *weights)[1])
    by_size = json.loads(run("headroom", "--size", "T16", *weights)[1])
    assert [r["name"] for r in by_name["reductions"]] == [r["name"] for r in by_size["reductions"]]
    np.testing.assert_allclose(*[[r["largest"] for r in f["reductions"]] for f in (by_name, by_size)], rtol=1e-4)


FORMS = ("open_clip's", "wrapped, averaged", "a classifier's", "a headless tower's", "shards")


@pytest.mark.parametrize("form", FORMS)
def test_headroom_takes_whatever_convert_takes(form, run, photo, checkpoint, tmp_path):
    weights = load_file(checkpoint)
    path, name, extra = tmp_path / "c.safetensors", ("--size", "T16"), ()
    if form == "open_clip's":
        small = synthetic_state_dict(dataclasses.replace(find("T16"), image_size=64))
        save_file({f"visual.trunk.{key}": tensor for key, tensor in small.items()}, path)
        extra = ("--image-size", "64")
    elif form == "wrapped, averaged":
        loud = weights | {"blocks.3.mlp.fc1.bias": weights["blocks.3.mlp.fc1.bias"] + 20_000}
        torch.save({"state_dict": {f"module.{k}": t for k, t in weights.items()}, "state_dict_ema": loud}, path)
        extra = ("--no-ema",)
    elif form == "a classifier's":
        save_file(weights | {"head.weight": torch.ones(7, 192), "head.bias": torch.ones(7)}, path)
        name = ("--timm-model", "vit_pe_core_tiny_patch16_384")
    elif form == "a headless tower's":
        save_file(synthetic_state_dict(find("spatial-T16")), path)
        name, extra = ("--variant", "spatial-t16"), ("--image-size", "512")
    else:
        path = tmp_path / "shards"
        path.mkdir()
        for i, keys in enumerate((list(weights)[::2], list(weights)[1::2]), start=1):
            save_file({key: weights[key] for key in keys}, path / f"model-0000{i}-of-00002.safetensors")
    code, out, err = run("headroom", *name, "--checkpoint", path, *extra, "--images", photo, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["enough"]
    assert ("keys that begin" in content["tower"] or "took" in content["tower"]) == (form == "wrapped, averaged")
    if form == "wrapped, averaged":
        assert run("headroom", *name, "--checkpoint", path, "--images", photo, "--json")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["headroom"], "give one of --size and --timm-model"),
        (["headroom", "--size", "T16", "--timm-model", "x"], "give one of --size and --timm-model"),
        (["headroom", "--timm-model", "resnet18"], "'resnet18' is neither of timm's Eva class"),
        (["headroom", "--timm-model", "vit_pe_none"], "'vit_pe_none' is no Perception Encoder of timm's"),
        (["localize", "Q99"], "Q99 is neither a file, a bundle's folder nor a size"),
        (["ablate", "--size", "spatial-t16"], "rewrites are taken out of a core tower"),
        (["localize", "missing.tflite"], "missing.tflite"),
    ],
)
def test_wrong_usage_is_one_sentence(run, arguments, sentence):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_headroom_saves_png_alone(run, photo, tmp_path):
    code, _, err = run(
        *("headroom", "--size", "T16", "--weights", "synthetic", "--images", photo, "--save", tmp_path / "h.jpg")
    )
    assert code == 2
    assert "--save writes .png files, not h.jpg" in err


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A bundle's folder with what localize reads of it."""
    folder = tmp_path_factory.mktemp("bundle")
    scales = Scales(stream=1 / 64)
    weights = load(TINY, "synthetic", seed=3, amplitude=100.0)
    tower = rewrite(build_tower(TINY, weights.state_dict), scales)
    export_tflite(tower, {"image": torch.zeros(1, 3, 64, 64)}, folder / "tiny_fp32.tflite")
    section = VisionSection(
        weights=weights.origin(),
        files={"notes.txt": FileEntry(0, ""), "tiny_fp32.tflite": file_entry(folder / "tiny_fp32.tflite", "fp32")},
        input=TensorEntry("image", "float32", [1, 3, 64, 64], "nchw", "-1..1"),
        outputs=[TensorEntry("embedding", "float32", [1, 512])],
        tower_output={"kind": "embedding"},
        scales=dataclasses.asdict(scales),
        preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3},
        self_test={},
    )
    (folder / "manifest.json").write_text(json.dumps(Manifest("tiny", TINY, section).as_json()))
    return folder


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.mark.parametrize("name", ["", "tiny_fp32.tflite"])
def test_localize_rebuilds_a_bundle_s_tower(run, bundle, name):
    code, out, err = run("localize", bundle / name, "--no-gpu", "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["columns"] == {"cpu": "LiteRT CPU against PyTorch"}
    assert content["first"] == {"cpu": None}
    assert [row["part"] for row in content["parts"]] == ["stem", "Block 0", "Block 1", "norm", "pool", "head"]


def test_localize_names_the_broken_layer_and_draws(run, bundle, tmp_path):
    file = bundle / "tiny_fp32.tflite"
    linear = next(op for op in read_graph(file).ops if "Block_1" in op.outputs[0].name and "_fc1" in op.outputs[0].name)
    np.memmap(file, np.float32, "r+", linear.inputs[1].offset, linear.inputs[1].shape)[:] *= -1
    code, out, _ = run("localize", bundle, "--no-gpu", "--save", tmp_path / "l.png")
    assert code == 1
    assert "SYNTHETIC" in out
    assert "LiteRT CPU against PyTorch: wrong from Block 1, mlp.fc1, FULLY_CONNECTED" in out
    assert (tmp_path / "l.png").stat().st_size > 10_000


def test_localize_without_weights_or_gpu_asks_for_a_reference(run, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"] |= {"synthetic": False, "source": "timm/vit_pe", "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = run("localize", bundle, "--no-gpu")
    assert code == 2
    assert "there is nothing to compare tiny_fp32.tflite with (no GPU and no reference): give --against" in err
    code, _, err = run("localize", bundle, "--no-gpu", "--against", bundle / "tiny_fp32.tflite")
    assert code == 0, err


def test_localize_takes_a_graph_beside_someone_else_s_manifest(run, bundle):
    (bundle / "manifest.json").write_text('{"name": "a web page"}')
    file = bundle / "tiny_fp32.tflite"
    code, _, err = run("localize", file, "--no-gpu", "--against", file)
    assert code == 0, err
    code, _, err = run("localize", bundle, "--no-gpu")
    assert code == 2
    assert "is not a manifest of ours" in err


@pytest.mark.parametrize("with_manifest", [True, False])
def test_localize_takes_a_text_tower_s_own_reference(run, bundle, text_section, with_manifest):
    """In a bundle of both, and in one that has no vision tower."""
    text = json.loads((text_section / "manifest.json").read_text())
    if with_manifest:
        manifest = json.loads((bundle / "manifest.json").read_text()) | {"text": text["text"]}
        manifest["text"]["weights"]["source"], manifest["weights"]["source"] = "words.pt", "pictures.pt"
        (bundle / "manifest.json").write_text(json.dumps(manifest))
    else:
        (bundle / "manifest.json").write_text(json.dumps(text))
    np.savez(bundle / "reference.npz", image=np.zeros((1, 1, 3, 64, 64), np.float32))
    (file,) = text_section.glob("*.tflite")
    for name in (file.name, "reference_text.npz"):
        shutil.copy(text_section / name, bundle)
    code, out, err = run("localize", bundle / file.name, "--no-gpu", "--against", file, "--json")
    assert code == 0, err
    assert json.loads(out)["first"] == {"cpu": None}
    code, out, err = run("localize", bundle / file.name, "--no-gpu", "--against", file)
    assert code == 0, err
    assert ("words.pt" in out) is with_manifest
    assert "pictures.pt" not in out


def test_localize_takes_the_caller_s_input(run, bundle, tmp_path):
    np.savez(tmp_path / "in.npz", image=np.zeros((2, 1, 3, 32, 32), np.float32))
    code, _, err = run("localize", bundle, "--no-gpu", "--inputs", tmp_path / "in.npz")
    assert code == 2
    assert "the graph needs ['samples', 1, 3, 64, 64]" in err
