import dataclasses
import json
import shutil

import numpy as np
import pytest

from convert.checkpoint import load
from convert.variants import find
from pecore import conversion
from pecore.errors import InputError
from pecore.validation import Options, validate

NO_GPU = Options(gpu="skip")


def quietly(stage: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle of a one-block tower."""
    variant = dataclasses.replace(find("T16"), depth=1, image_size=64)
    options = conversion.Options(gpu="skip")
    target = tmp_path_factory.mktemp("made") / variant.artefact
    return conversion.convert(variant, load(variant, "synthetic"), target, options, quietly).folder


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


def test_another_checkpoint_is_refused(bundle, tmp_path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"] |= {"synthetic": False, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    from safetensors.torch import save_file

    variant = dataclasses.replace(find("T16"), depth=1, image_size=64)
    save_file(dict(load(variant, "synthetic").state_dict), tmp_path / "other.safetensors")
    options = dataclasses.replace(NO_GPU, checkpoint=tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not what this bundle was made from"):
        validate(bundle, options, quietly)


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
