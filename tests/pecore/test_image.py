from pathlib import Path

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pecore.errors import InputError
from pecore.image import load_image, preprocess
from pecore.validate.photographs import BUNDLED, photographs

PHOTOGRAPHS = dict(photographs())


@pytest.fixture
def small() -> Image.Image:
    return PHOTOGRAPHS["astronaut"].resize((40, 30))


@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee", "retina"])
@pytest.mark.parametrize(("open_clip_name", "size"), [("PE-Core-B-16", 224), ("PE-Core-bigG-14-448", 448)])
def test_equals_open_clip_s_transform(name: str, open_clip_name: str, size: int) -> None:
    config = open_clip.get_pretrained_cfg(open_clip_name, "meta")
    keys = ("mean", "std", "interpolation", "resize_mode")
    transform = image_transform_v2(PreprocessCfg(size=size, **{key: config[key] for key in keys}), is_train=False)
    image = PHOTOGRAPHS[name]
    ours = preprocess(image, size)
    assert ours.dtype == np.float32
    assert ours.shape == (1, 3, size, size)
    # The same Pillow filter on the same bytes; the rest is two float32 operations.
    np.testing.assert_allclose(ours[0], transform(image).numpy(), rtol=0, atol=1e-6)


def test_layouts_and_ranges_are_the_same_image(small: Image.Image) -> None:
    normal = preprocess(small, 32)
    assert np.array_equal(preprocess(small, 32, layout="nhwc"), normal.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(preprocess(small, 32, value_range="0..1") * 2 - 1, normal, atol=1e-6)
    raw = preprocess(small, 32, value_range="0..255")
    assert np.array_equal(raw, np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None])
    assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in (normal, raw))
    with pytest.raises(InputError, match=r"'hwc'.*nchw, nhwc"):
        preprocess(small, 32, layout="hwc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'0-1'.*-1\.\.1, 0\.\.1, 0\.\.255"):
        preprocess(small, 32, value_range="0-1")  # type: ignore[arg-type]


def test_path_array_and_image_agree(small: Image.Image, tmp_path: Path) -> None:
    small.save(tmp_path / "a.png")
    expected = preprocess(small, 32)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(small)):
        assert np.array_equal(preprocess(same, 32), expected)


def test_exif_orientation_is_applied(small: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    small.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png"), small)


def test_transparency_lies_on_white(small: Image.Image, tmp_path: Path) -> None:
    transparent = small.copy()
    transparent.putalpha(Image.new("L", small.size, 0))  # what is left of the colours must not show
    assert set(np.unique(load_image(transparent))) == {255}
    half = Image.new("LA", (2, 2), (0, 128))
    assert set(np.unique(load_image(half))) == {127}
    palette = small.quantize(16)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert load_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)


def test_palette_and_cmyk(small: Image.Image, tmp_path: Path) -> None:
    assert np.array_equal(load_image(small.quantize(16)), small.quantize(16).convert("RGB"))
    small.convert("CMYK").save(tmp_path / "c.tif")
    assert np.abs(np.asarray(load_image(tmp_path / "c.tif"), int) - np.asarray(small, int)).max() <= 1
    assert np.array_equal(load_image(small.convert("1")), small.convert("1").convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_range(suffix: str, small: Image.Image, tmp_path: Path) -> None:
    grey = np.asarray(small.convert("L"))
    path = tmp_path / f"g.{suffix}"
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    assert Image.open(path).mode.startswith("I")
    assert np.array_equal(np.asarray(load_image(path))[..., 0], grey)


@pytest.mark.parametrize(
    ("offender", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"not float32 \[4, 4, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), r"not uint8 \[3, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
        ([1, 2], "not list"),
        (b"\x89PNG", "not bytes"),
        (None, "not NoneType"),
        ("nowhere.jpg", r"no image file nowhere\.jpg"),
        (Image.new("F", (4, 4)), "floating-point"),
        (Image.new("I", (4, 4), 70000), "beyond 16 bits"),
    ],
    ids=str,
)
def test_refused_by_name(offender: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preprocess(offender, 32)  # type: ignore[arg-type]


def test_damaged_files_are_named(small: Image.Image, tmp_path: Path) -> None:
    small.resize((200, 200)).save(tmp_path / "whole.jpg")
    small.resize((200, 200)).save(tmp_path / "whole.png")
    files = {
        "text.jpg": b"not an image",
        "empty.png": b"",
        "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:2000],
        "cut.png": (tmp_path / "whole.png").read_bytes()[:2000],
        "header.png": (tmp_path / "whole.png").read_bytes()[:20],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_huge_image_is_refused(small: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    small.save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png"):
        load_image(tmp_path / "bomb.png")


def test_bundled_photographs() -> None:
    assert list(PHOTOGRAPHS) == list(BUNDLED)
    for image in PHOTOGRAPHS.values():
        assert image.mode == "RGB"
        assert np.asarray(image.resize((32, 32))).std() > 10  # a picture, not a flat field


def test_photographs_from_a_folder(small: Image.Image, tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "._a.png"):
        small.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("nothing to see")
    found = list(photographs(tmp_path))
    assert [name for name, _ in found] == ["a.png", "b.JPG"]
    assert found[0][1].size == small.size
    (tmp_path / "c.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"c\.jpg"):
        list(photographs(tmp_path))


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image file in"):
        photographs(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        photographs(tmp_path / "nowhere")
