import base64
import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.errors import InputError
from pecore.validate.bundle import Options, judge_device, validate
from pecore.variants import find

NO_GPU = Options(gpu="skip")


def quietly(stage: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of a one-block tower."""
    variant = dataclasses.replace(find("T16"), depth=1, image_size=64)
    options = pipeline.VisionOptions(gpu="skip")
    target = tmp_path_factory.mktemp("made") / variant.artefact
    return pipeline.convert(variant, load(variant, "synthetic"), target, options, quietly).folder


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / made.name)


def outcomes(checks):
    return {c.gate: c.outcome for c in checks}


def test_a_fresh_bundle_passes_every_gate(bundle):
    expected = dict.fromkeys(("files", "exact", "headroom", "graph", "cpu"), "passed") | {"gpu": "skipped"}
    assert outcomes(validate(bundle, NO_GPU, quietly)) == expected


def test_a_changed_file_is_noticed(bundle):
    path = next(bundle.glob("*.tflite"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert outcomes(validate(bundle, NO_GPU, quietly)) == {"files": "failed"}


def test_real_weights_are_asked_for(bundle):
    """The gates that need the weights are skipped with the way to run them."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"] |= {"synthetic": False, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    skipped = [c for c in validate(bundle, NO_GPU, quietly) if c.outcome == "skipped" and "--checkpoint" in c.detail]
    assert [c.gate for c in skipped] == ["exact", "headroom"]


def test_a_file_alone_is_held_against_the_reference_given(bundle):
    path = next(bundle.glob("*.tflite"))
    options = dataclasses.replace(NO_GPU, reference=bundle / "reference.npz")
    assert outcomes(validate(path, options, quietly)) == {"graph": "passed", "cpu": "passed", "gpu": "skipped"}
    with np.load(options.reference) as stored:
        wrong = {"image": stored["image"], "embedding": stored["embedding"][..., ::-1]}
    np.savez(bundle / "wrong.npz", **wrong)
    options = dataclasses.replace(NO_GPU, reference=bundle / "wrong.npz")
    assert outcomes(validate(path, options, quietly))["cpu"] == "failed"


def test_a_file_alone_needs_no_reference(bundle):
    checks = validate(next(bundle.glob("*.tflite")), NO_GPU, quietly)
    assert outcomes(checks)["cpu"] == "skipped"


def from_file(bundle, path, seed):
    """Let the bundle be one of real weights, and write weights of a seed to a file."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"] |= {"synthetic": False, "kind": "timm"}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    variant = dataclasses.replace(find("T16"), depth=1, image_size=64)
    save_file(dict(load(variant, "synthetic", seed=seed).state_dict), path)
    return dataclasses.replace(NO_GPU, checkpoint=path)


def test_another_checkpoint_is_refused(bundle, tmp_path):
    options = from_file(bundle, tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match=r"is not what .* was made from"):
        validate(bundle, options, quietly)


def test_the_checkpoint_may_be_in_another_file(bundle, tmp_path):
    options = from_file(bundle, tmp_path / "same.safetensors", seed=0)
    judged = outcomes(validate(bundle, options, quietly))
    assert (judged["exact"], judged["headroom"]) == ("passed", "passed")


@pytest.fixture
def device_report(bundle, tmp_path):
    """device_report(outputs): the path of what a phone would report of these outputs."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (name, file), *_ = manifest["files"].items()

    def write(outputs, **about):
        figures = {
            "sha256": file["sha256"],
            "kind": "cpu",
            "outputs": [base64.b64encode(o.astype("<f4").tobytes()).decode() for o in outputs],
        }
        gate = {"gate": "device", "subject": name, "backend": "LiteRT CPU", "outcome": "passed", "detail": "as\nmade"}
        content = {
            "format": 1,
            "fingerprint": manifest["weights"]["fingerprint"],
            "device": {"name": "Phone", "system": "Android 16"},
            "versions": {"litert": "2.3.2"},
            "gates": [gate | {"figures": figures}],
        }
        path = tmp_path / "device.json"
        path.write_text(json.dumps(content | about))
        return path

    return write


def test_a_device_s_report_is_judged_and_kept(bundle, device_report):
    with np.load(bundle / "reference.npz") as stored:
        right = stored["embedding"]
    for _ in range(2):  # a second report of the same phone takes the first one's place
        assert outcomes(judge_device(bundle, device_report(right))) == {"device": "passed"}
    assert len(json.loads((bundle / "report.json").read_text())["devices"]) == 1
    assert (bundle / "MODEL_CARD.md").read_text().count("## On Phone\n\nAndroid 16, litert 2.3.2") == 1
    assert outcomes(judge_device(bundle, device_report(right[..., ::-1]))) == {"device": "failed"}
    assert outcomes(validate(bundle, NO_GPU, quietly))["files"] == "passed"


def test_a_bundle_without_its_report_takes_no_device_s(bundle, device_report):
    with np.load(bundle / "reference.npz") as stored:
        path = device_report(stored["embedding"])
    (bundle / "report.json").unlink()
    with pytest.raises(InputError, match=r"report\.json can't be read"):
        judge_device(bundle, path)


def test_a_report_without_the_reference_is_refused(bundle, device_report):
    path = device_report([])
    (bundle / "reference.npz").unlink()
    with pytest.raises(InputError, match=r"reference\.npz can't be read"):
        judge_device(bundle, path)


def test_a_report_of_other_weights_is_refused(bundle, device_report):
    before = (bundle / "report.json").read_bytes()
    with pytest.raises(InputError, match="other weights"):
        judge_device(bundle, device_report([], fingerprint="00"))
    assert (bundle / "report.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}}'])
def test_a_broken_manifest_is_refused(bundle, content):
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json (is damaged|describes no vision tower)"):
        validate(bundle, NO_GPU, quietly)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no bundle"):
        validate(tmp_path, NO_GPU, quietly)


def test_the_bundle_s_own_scales_are_judged(bundle):
    """Not those that the photographs would ask for now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["scales"]["stream"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    judged = outcomes(validate(bundle, NO_GPU, quietly))
    assert (judged["exact"], judged["headroom"]) == ("passed", "failed")
