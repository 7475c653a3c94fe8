import dataclasses
import errno
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pecore.cli import main
from pecore.convert import pipeline
from pecore.convert.checkpoint import load
from pecore.convert.towers import build_tower
from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.feature_maps import GAP, SIDE, colours, sheet
from pecore.image import preprocess
from pecore.variants import find


def run(capfd, *args):
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    return stop.value.code, *capfd.readouterr()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A spatial tower of one block, channels last: the layout that `features` turns around."""
    variant = dataclasses.replace(find("spatial-T16"), depth=1, image_size=64)
    options = pipeline.VisionOptions(precisions=("fp32",), gpu="skip", input_layout="nhwc")
    target = tmp_path_factory.mktemp("out") / variant.artefact
    return pipeline.convert(variant, load(variant, "synthetic"), target, options, lambda line: None)


def test_a_photograph_s_features_are_timm_s(bundle, shots):
    variant = dataclasses.replace(find("spatial-T16"), depth=1, image_size=64)
    tower = build_tower(variant, load(variant, "synthetic").state_dict)

    maps = PerceptionEncoder(bundle.folder).features(shots[:2])
    assert maps.shape == (2, 192, 4, 4)
    for shot, made in zip(shots, maps):
        tokens = tower.forward_features(torch.from_numpy(preprocess(shot, 64)))[0, 1:]
        expected = tokens.numpy().T.reshape(192, 4, 4)
        np.testing.assert_allclose(made, expected, atol=5e-5 * abs(expected).max())


def test_alike_patches_are_alike_in_colour():
    """Two kinds of patch in two maps: two colours, wherever they are."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(2, 16)) * ([1000] + [1] * 15)  # a massive channel says nothing by its size
    which = rng.integers(0, 2, (2, 4, 4))
    maps = kinds[which].transpose(0, 3, 1, 2) + rng.normal(size=(2, 16, 4, 4)) * 1e-3
    painted = colours(maps.astype(np.float32))
    assert painted.shape == (2, 4, 4, 3)
    assert painted.dtype == np.uint8
    red = painted[..., 0].astype(int)
    assert abs(red[which == 0].mean() - red[which == 1].mean()) > 200
    assert max(red[which == 0].std(), red[which == 1].std()) < 10


def test_the_sheet_has_each_image_beside_its_map(shots):
    maps = np.random.default_rng(0).normal(size=(2, 8, 4, 4)).astype(np.float32)
    picture = sheet(shots[:2], maps, ["one", "two"], "a note")
    assert picture.width == 2 * SIDE + 3 * GAP
    heights = [round(SIDE * shot.height / max(shot.size)) for shot in shots[:2]]
    assert picture.height > sum(heights)


def test_the_verb_writes_picture_and_maps(bundle, shots, tmp_path, capfd):
    shots[0].save(tmp_path / "a.png")
    picture, maps = tmp_path / "pca.png", tmp_path / "maps.npz"
    options = ("--bundle", bundle.folder, "--save", picture, "--out", maps)
    code, out, _ = run(capfd, "features", tmp_path / "a.png", *options)
    assert code == 0
    assert "1 map of 4 x 4 patches, 192 channels" in out
    assert Image.open(picture).width == 2 * SIDE + 3 * GAP
    with np.load(maps) as stored:
        assert stored["features"].shape == (1, 192, 4, 4)


def test_an_image_that_can_t_be_read_is_skipped_and_named(bundle, shots, tmp_path, capfd):
    maps, broken = tmp_path / "maps.npz", tmp_path / "broken.jpg"
    broken.write_bytes(b"no")
    shots[0].save(tmp_path / "a.png")
    options = ("--bundle", bundle.folder, "--out", maps, "--json")
    code, out, err = run(capfd, "features", broken, tmp_path / "a.png", *options)
    facts = json.loads(out)
    assert (code, facts["images"], facts["shape"]) == (1, [str(tmp_path / "a.png")], [1, 192, 4, 4])
    assert "broken.jpg is not an image" in facts["skipped"][0]["reason"]
    assert "broken.jpg is not an image" in err
    with np.load(maps) as stored:
        assert stored["paths"].tolist() == facts["images"]
    code, out, err = run(capfd, "features", broken, *options)
    assert (code, out) == (2, "")
    assert "none of the 1 images could be used; the first: " in err
    with np.load(maps) as stored:
        assert len(stored["features"]) == 1  # what was there stays


def test_maps_are_written_whole_or_not_at_all(bundle, shots, tmp_path, capfd, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    shots[0].save(tmp_path / "a.png")
    monkeypatch.setattr(np, "savez_compressed", fail)
    code, _, err = run(capfd, "features", tmp_path / "a.png", "--bundle", bundle.folder, "--out", tmp_path / "maps.npz")
    assert code == 2
    assert err.endswith("error: No space left on device\n")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_what_wants_embeddings_refuses_a_bundle_of_features(bundle, shots, tmp_path, capfd):
    for name in ("a.png", "b.png"):
        shots[0].save(tmp_path / name)
    said = "gives features, not embedding; `pecore convert --output embedding`"
    encoder = PerceptionEncoder(bundle.folder)
    with pytest.raises(InputError, match=said):
        encoder.embed_pixels(encoder.prepare(shots[0]))
    for arguments in (
        ("classify", tmp_path),
        ("evaluate", "--no-pytorch", "--dataset", tmp_path / "nowhere"),  # refused before it is looked at
        ("embed", tmp_path, "--out", tmp_path / "x.lance"),
    ):
        code, out, err = run(capfd, *arguments, "--bundle", bundle.folder)
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert "skipped" not in err


def test_what_is_left_out_is_said(bundle, shots, tmp_path, capfd, without_heif):
    shots[0].save(tmp_path / "a.png")
    (tmp_path / "IMG.HEIC").write_bytes(b"heic")
    arguments = ("features", tmp_path, "--bundle", bundle.folder, "--out", tmp_path / "maps.npz", "--json")
    code, out, err = run(capfd, *arguments)
    assert (code, json.loads(out)["left_out"]) == (0, {"HEIC": 1})
    assert "1 file left out: 1 HEIC (convert them, or `pip install pillow-heif`)" in err


@pytest.mark.parametrize(
    ("options", "said"), [([], "nothing to do"), (["--out", "maps.npy"], "--out writes .npz files, not maps.npy")]
)
def test_wrong_usage(options, said, capfd):
    code, _, err = run(capfd, "features", "a.png", *options)
    assert code == 2
    assert said in err
