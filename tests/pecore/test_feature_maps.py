import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from convert.checkpoint import load
from convert.variants import build_tower, find
from pecore import conversion
from pecore.cli import main
from pecore.encoder import PerceptionEncoder
from pecore.feature_maps import GAP, SIDE, colours, sheet
from pecore.preprocess import preprocess


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A spatial tower of one block, channels last: the layout that `features` turns around."""
    variant = dataclasses.replace(find("spatial-T16"), depth=1, image_size=64)
    options = conversion.Options(precisions=("fp32",), gpu="skip", input_layout="nhwc")
    target = tmp_path_factory.mktemp("out") / variant.artefact
    return conversion.convert(variant, load(variant, "synthetic"), target, options, lambda stage: None)


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
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "features",
                str(tmp_path / "a.png"),
                "--bundle",
                str(bundle.folder),
                "--save",
                str(picture),
                "--out",
                str(maps),
            ]
        )
    assert stop.value.code == 0
    assert "1 map of 4 x 4 patches, 192 channels" in capfd.readouterr().out
    assert Image.open(picture).width == 2 * SIDE + 3 * GAP
    with np.load(maps) as stored:
        assert stored["features"].shape == (1, 192, 4, 4)


@pytest.mark.parametrize(
    ("options", "said"), [([], "nothing to do"), (["--out", "maps.npy"], "--out writes an .npz file")]
)
def test_wrong_usage(options, said, capfd):
    with pytest.raises(SystemExit) as stop:
        main(["features", "a.png", *options])
    assert stop.value.code == 2
    assert said in capfd.readouterr().err
