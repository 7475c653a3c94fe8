import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pecore.cli import main
from pecore.convert.label_embeddings import write_labels
from pecore.convert.pipeline import PROMPTS, Conversion, GateOptions, convert_text
from pecore.convert.text_tower import TextWeights, build_text_tower, load_text, text_config, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.errors import InputError
from pecore.files import sha256
from pecore.precision import PRECISIONS
from pecore.runtime import open_model
from pecore.validate.graph import op_counts, read_graph
from pecore.validate.reference import load_reference
from pecore.variants import find

B16 = find("B16")
SMALL = replace(text_config(B16), layers=2, width=64, heads=2)
UNSEEN = ["two dogs on a beach", "a", "an <end_of_text> <end_of_text> in between", "lots of words " * 30]


@pytest.fixture(scope="module")
def weights() -> TextWeights:
    return load_text(B16, "synthetic", config=SMALL)


@pytest.fixture(scope="module")
def result(weights: TextWeights, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    folder = tmp_path_factory.mktemp("text") / "b"
    return convert_text(B16, weights, folder, GateOptions(("int8", "fp32"), gpu="skip"), lambda name: None, SMALL)


# Float32 with sums in another order; int8 weights of a narrow random tower.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("int8", 2e-2)])
def test_equals_open_clip(precision: str, tolerance: float, result: Conversion, weights: TextWeights) -> None:
    model = open_model(result.folder / f"pe_core_base_224_text_{precision}.tflite")
    assert {n: str(s) for n, s in model.inputs.items()} == {"tokens": "[1, 32] int32"}
    assert {n: str(s) for n, s in model.outputs.items()} == {"text_embedding": "[1, 1024] float32"}
    tower = build_text_tower(SMALL, weights.state_dict)
    ids = token_ids(clip_tokenizer(), UNSEEN, 32)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(tower(ids), dim=-1).numpy()
    actual = np.concatenate([model.run({"tokens": row[None].int().numpy()})["text_embedding"] for row in ids])
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=0)
    assert np.abs(expected - expected[0]).max(1)[1:].min() > 5e-2  # the prompts are further apart than that


def test_ops(result: Conversion) -> None:
    counts = op_counts(read_graph(result.folder / "pe_core_base_224_text_int8.tflite"))
    assert counts["EMBEDDING_LOOKUP"] == 1
    assert not {"GATHER_ND", "ARG_MAX", "GATHER", "L2_NORMALIZATION", "BROADCAST_TO"} & set(counts)


def test_manifest_and_report(result: Conversion) -> None:
    assert result.passed
    manifest = json.loads((result.folder / "manifest.json").read_text())
    text = manifest["text"]
    assert manifest == result.manifest.as_json()
    for name, entry in text["files"].items():
        file = result.folder / name
        assert (entry["bytes"], entry["sha256"]) == (file.stat().st_size, sha256(file))
        assert name == "tokenizer.json" or entry["ops"] > 70
    assert {f["precision"] for f in text["files"].values() if "precision" in f} == {"int8", "fp32"}
    assert "tokenizer.json" in text["files"]
    assert (text["end_of_text"], text["context_length"]) == (49407, 32)
    assert text["weights"]["source"] == "synthetic, seed 0"
    assert sorted(p.name for p in result.folder.iterdir()) == sorted(
        [*text["files"], "manifest.json", "report_text.json", "reference_text.npz"]
    )
    gates = {(g["gate"], g["outcome"]) for g in json.loads((result.folder / "report_text.json").read_text())["gates"]}
    assert gates == {("exact", "passed"), ("graph", "passed"), ("cpu", "passed"), ("headroom", "passed")} | {
        ("gpu", "skipped")
    }


def test_the_reference_lets_others_judge_it(result: Conversion) -> None:
    model = open_model(result.folder / "pe_core_base_224_text_fp32.tflite")
    inputs, outputs = load_reference(result.folder / "reference_text.npz", model.inputs, model.outputs)
    assert len(inputs) == len(PROMPTS)
    for tokens, expected in zip(inputs, outputs):
        np.testing.assert_allclose(model.run(tokens)["text_embedding"], expected["text_embedding"], atol=2e-6, rtol=0)


def test_joins_labels_of_the_same_checkpoint_alone(weights: TextWeights, tmp_path: Path) -> None:
    write_labels(tmp_path / "b", B16, weights, ["cat"], ["{}"], config=SMALL)
    other = load_text(B16, "synthetic", seed=1, config=SMALL)
    with pytest.raises(InputError, match="from synthetic, seed 0, not from synthetic, seed 1"):
        convert_text(B16, other, tmp_path / "b", GateOptions(gpu="skip"), config=SMALL)


def test_a_failed_gate_leaves_the_bundle_alone(
    weights: TextWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_labels(tmp_path / "b", B16, weights, ["cat"], ["{}"], config=SMALL)
    before = {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    strict = replace(PRECISIONS["int8"], unit={**PRECISIONS["int8"].unit, "cpu": {"cosine": 1.1}})
    monkeypatch.setitem(PRECISIONS, "int8", strict)  # type: ignore[misc]
    result = convert_text(B16, weights, tmp_path / "b", GateOptions(("int8",), gpu="skip"), config=SMALL)
    assert not result.passed
    assert result.folder == tmp_path / "b.rejected"
    assert (result.folder / "pe_core_base_224_text_int8.tflite").is_file()
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()} == before


def test_options() -> None:
    with pytest.raises(InputError, match="unknown precision int4"):
        GateOptions(("int4",))


def test_integer_activations_are_for_vision_towers(weights: TextWeights, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a16w8: for vision towers"):
        convert_text(B16, weights, tmp_path / "b", GateOptions(("a16w8",), gpu="skip"), config=SMALL)
    assert not (tmp_path / "b").exists()


def test_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("pecore.convert.text_tower", "pecore.convert.pipeline"):
        monkeypatch.setattr(f"{module}.text_config", lambda variant: SMALL)

    def run(*args: Any) -> int | str | None:
        with pytest.raises(SystemExit) as stopped:
            main(["convert", "--size", "B16", "--weights", "synthetic", "--tower", *args])
        return stopped.value.code

    assert run("text", "--no-gpu") == 0
    out, _ = capfd.readouterr()
    assert "Gates of pe_core_base_224_text" in out
    assert "Synthetic weights" in out
    assert list(Path("out/pe_core_base_224").glob("*.tflite")) == [
        Path("out/pe_core_base_224/pe_core_base_224_text_int8.tflite")
    ]
    assert run("txt") == 2
    assert run("text", "--input-layout", "nhwc") == 2
    assert "about a vision tower" in capfd.readouterr().err
