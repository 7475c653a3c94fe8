import base64
import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.load import bundle_tower
from pecore.errors import InputError
from pecore.validate.bundle import ValidationOptions, check_device_report, validate
from pecore.variants import find

NO_GPU = ValidationOptions(gpu="skip")


def quietly(line: str) -> None:
    pass


def judged(path, options=NO_GPU):
    return validate(path, options, bundle_tower, quietly)


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
    assert outcomes(judged(bundle)) == expected


def test_a_changed_file_is_noticed(bundle):
    path = next(bundle.glob("*.tflite"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert outcomes(judged(bundle)) == {"files": "failed"}


def test_real_weights_are_asked_for(bundle):
    """The gates that need the weights are skipped with the way to run them."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"] |= {"synthetic": False, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    skipped = [c for c in judged(bundle) if c.outcome == "skipped" and "--checkpoint" in c.detail]
    assert [c.gate for c in skipped] == ["exact", "headroom"]


def test_a_file_alone_is_held_against_the_reference_given(bundle):
    path = next(bundle.glob("*.tflite"))
    options = dataclasses.replace(NO_GPU, reference=bundle / "reference.npz")
    assert outcomes(judged(path, options)) == {"graph": "passed", "cpu": "passed", "gpu": "skipped"}
    with np.load(options.reference) as stored:
        wrong = {"image": stored["image"], "embedding": stored["embedding"][..., ::-1]}
    np.savez(bundle / "wrong.npz", **wrong)
    options = dataclasses.replace(NO_GPU, reference=bundle / "wrong.npz")
    assert outcomes(judged(path, options))["cpu"] == "failed"


def test_a_file_alone_needs_no_reference(bundle):
    checks = judged(next(bundle.glob("*.tflite")))
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
        judged(bundle, options)


def test_the_checkpoint_may_be_in_another_file(bundle, tmp_path):
    options = from_file(bundle, tmp_path / "same.safetensors", seed=0)
    found = outcomes(judged(bundle, options))
    assert (found["exact"], found["headroom"]) == ("passed", "passed")


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
        assert outcomes(check_device_report(bundle, device_report(right))) == {"device": "passed"}
    assert len(json.loads((bundle / "report.json").read_text())["devices"]) == 1
    assert (bundle / "MODEL_CARD.md").read_text().count("## On Phone\n\nAndroid 16, litert 2.3.2") == 1
    assert outcomes(check_device_report(bundle, device_report(right[..., ::-1]))) == {"device": "failed"}
    assert outcomes(judged(bundle))["files"] == "passed"


def test_a_bundle_without_its_report_takes_no_device_s(bundle, device_report):
    with np.load(bundle / "reference.npz") as stored:
        path = device_report(stored["embedding"])
    (bundle / "report.json").unlink()
    with pytest.raises(InputError, match=r"report\.json can't be read"):
        check_device_report(bundle, path)


def test_a_report_without_the_reference_is_refused(bundle, device_report):
    path = device_report([])
    (bundle / "reference.npz").unlink()
    with pytest.raises(InputError, match=r"reference\.npz can't be read"):
        check_device_report(bundle, path)


def test_a_report_of_other_weights_is_refused(bundle, device_report):
    before = (bundle / "report.json").read_bytes()
    with pytest.raises(InputError, match="other weights"):
        check_device_report(bundle, device_report([], fingerprint="00"))
    assert (bundle / "report.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}}'])
def test_a_broken_manifest_is_refused(bundle, content):
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json is (damaged|not a manifest of ours)"):
        judged(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no bundle"):
        judged(tmp_path)


def test_the_bundle_s_own_scales_are_judged(bundle):
    """Not those that the photographs would ask for now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["scales"]["stream"] = 1.0
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = outcomes(judged(bundle))
    assert (found["exact"], found["headroom"]) == ("passed", "failed")
