import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pecore.errors import InputError
from pecore.image import load_image, preprocess
from pecore.image_formats import image_suffixes
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_turned_image_is_turned_once(suffix: str, small: Image.Image, tmp_path: Path) -> None:
    """`PerceptionEncoder.classify` and others hand on what `load_image` returned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    small.save(tmp_path / f"a.{suffix}", exif=exif)
    once = load_image(tmp_path / f"a.{suffix}")
    assert once.size == small.size[::-1]
    assert np.array_equal(load_image(once), once)


# Metadata: what is wanted of it, and what it may not decide


def ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A little-endian EXIF block of (tag, type, count, four bytes)."""
    packed = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SIX = (0x0112, 3, 1, b"\6\0\0\0")
ASCII_RESOLUTION = (0x011A, 2, 4, b"72\0\0")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_orientation_of_every_format(orientation: int, suffix: str, small: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = small.transpose(upside_down[orientation]) if orientation > 1 else small
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    options["avif"] = {"quality": 100, "subsampling": "4:4:4"}
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **options.get(suffix, {}))
    found = np.asarray(load_image(tmp_path / f"a.{suffix}"), int)
    assert found.shape == (30, 40, 3)
    assert np.abs(found - np.asarray(small, int)).mean() < 3  # lossy ones; a picture turned otherwise is 40 away


upside_down = {  # what undoes an orientation, undone
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize(
    "others",
    [
        (ASCII_RESOLUTION,),
        ((0x011A, 5, 1, b"\xff\xff\xff\x7f"),),  # points outside
        ((0x010F, 12, 1, bytes(4)), (0x0131, 7, 2**31, bytes(4))),
        ((0x8769, 4, 1, b"\xff\xff\xff\xff"), (0x8825, 2, 4, b"gps\0")),  # directories that are none
    ],
    ids=["XResolution is text", "a value outside the file", "a maker of doubles", "directories that are none"],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_orientation_is_read_whatever_stands_beside_it(
    others: tuple[tuple[int, int, int, bytes], ...], suffix: str, small: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    small.transpose(upside_down[6]).save(path, exif=ifd(*others, SIX), **options.get(suffix, {}))
    found = np.asarray(load_image(path), int)
    assert found.shape == (30, 40, 3)
    assert np.abs(found - np.asarray(small, int)).mean() < 3


@pytest.mark.parametrize(
    "exif",
    [b"garbage!", b"Exif\0\0garbage!", b"Exif\0\0", ifd((0x0112, 2, 4, b"six\0")), ifd((0x0112, 3, 1, b"\x63\0\0\0"))],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_unreadable_orientation_is_upright(exif: bytes, suffix: str, small: Image.Image, tmp_path: Path) -> None:
    small.save(tmp_path / f"plain.{suffix}")
    data = (tmp_path / f"plain.{suffix}").read_bytes()
    expected = load_image(tmp_path / f"plain.{suffix}")
    if suffix == "webp":
        small.save(tmp_path / "a", format=suffix, exif=ifd(SIX)[: max(len(exif), 18)])
        data = (tmp_path / "a").read_bytes().replace(ifd(SIX)[6 : max(len(exif), 18)], exif[6:].ljust(12, b"!"))
    elif suffix == "png":
        data = data[:33] + png_chunk(b"eXIf", exif) + data[33:]
    else:
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert np.array_equal(load_image(tmp_path / f"a.{suffix}"), expected)


def test_an_avif_s_metadata_does_not_decide(small: Image.Image, tmp_path: Path) -> None:
    small.transpose(upside_down[6]).save(tmp_path / "a.avif", exif=ifd((0x010F, 2, 4, b"abc\0"), SIX))
    expected, data = load_image(tmp_path / "a.avif"), (tmp_path / "a.avif").read_bytes()
    assert expected.size == small.size
    (tmp_path / "b.avif").write_bytes(data.replace(b"II*\0", b"what"))
    with pytest.raises(ValueError, match="Exif"):
        Image.open(tmp_path / "b.avif")
    assert np.array_equal(load_image(tmp_path / "b.avif"), expected)  # AVIF turns pictures without EXIF as well


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nnot hex\n")),
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(np.random.default_rng(0).bytes(2 << 20))),
        png_chunk(b"iCCP", b"p\0\7what"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        png_chunk(b"gAMA", b"\1"),
        png_chunk(b"pHYs", b""),
        png_chunk(b"acTL", b"\0"),
        struct.pack(">I", 3) + b"tEXtabc" + b"!CRC",
    ],
    ids=["exif that is no hex", "2 MB ICC profile", "ICC method", "3 MB XMP", "gAMA", "pHYs", "acTL", "CRC"],
)
@pytest.mark.parametrize("place", [33, -12], ids=["before", "after"])
def test_a_png_s_metadata_does_not_decide(chunk: bytes, place: int, small: Image.Image, tmp_path: Path) -> None:
    small.transpose(upside_down[6]).save(tmp_path / "a.png", exif=ifd(SIX))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:place] + chunk + data[place:])
    assert np.array_equal(load_image(tmp_path / "a.png"), small)  # the orientation among the rest is read


def test_a_jpeg_s_metadata_does_not_decide(small: Image.Image, tmp_path: Path) -> None:
    small.save(tmp_path / "a.jpg", quality=95)
    data, expected = (tmp_path / "a.jpg").read_bytes(), load_image(tmp_path / "a.jpg")
    adobe = b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0"  # a resolution that is not there
    for segment in (b"JFIF\0", adobe, b"MPF\0II*\0", b"ICC_PROFILE\0", b"ICC_PROFILE\0\1"):
        for marker in range(0xE0, 0xF0):
            mark = b"\xff" + bytes([marker]) + struct.pack(">H", len(segment) + 2) + segment
            if marker in (0xE0, 0xEE) and not segment.startswith(b"JFIF"):
                continue  # those say how the colours are coded
            (tmp_path / "a.jpg").write_bytes(data[:2] + mark + data[2:])
            assert np.array_equal(load_image(tmp_path / "a.jpg"), expected), (hex(marker), segment)


def test_a_tiff_s_metadata_does_not_decide(small: Image.Image, tmp_path: Path) -> None:
    """XMP that is a number: Pillow looks for an orientation in it, with a pattern of bytes."""
    small.transpose(upside_down[6]).save(tmp_path / "a.tif", tiffinfo={274: 6, 700: b"12345678"})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = data.index(struct.pack("<HH", 700, 1))
    data[at : at + 12] = struct.pack("<HHII", 700, 4, 1, 5)
    at = data.index(struct.pack("<HH", 274, 3))
    data[at : at + 2] = struct.pack("<H", 269)  # another tag: Pillow looks into XMP where there is no orientation
    with Image.open(BytesIO(data)) as image, pytest.raises(TypeError):
        image.load()
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(load_image(tmp_path / "a.tif"), small.transpose(upside_down[6]))


def test_colour_profiles_are_ignored(small: Image.Image, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "jpg", "tif", "webp"):
        small.save(tmp_path / f"with.{suffix}", icc_profile=profile)
        small.save(tmp_path / f"without.{suffix}")
        assert np.array_equal(load_image(tmp_path / f"with.{suffix}"), load_image(tmp_path / f"without.{suffix}"))
        (tmp_path / f"with.{suffix}").unlink()
        small.save(tmp_path / f"with.{suffix}", icc_profile=b"no profile")
        assert np.array_equal(load_image(tmp_path / f"with.{suffix}"), load_image(tmp_path / f"without.{suffix}"))


# What is no image of ours


def test_formats_are_a_list_of_ours(small: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ghostscript(*args: object, **kwargs: object) -> None:
        pytest.fail("another program was started")

    monkeypatch.setattr("subprocess.check_call", ghostscript)
    monkeypatch.setattr("subprocess.Popen", ghostscript)
    small.save(tmp_path / "a.eps")
    for name in ("a.eps", "a.jpg"):  # whatever it is called
        (tmp_path / name).write_bytes((tmp_path / "a.eps").read_bytes())
        with pytest.raises(InputError, match=rf"{name} is not an image .*PostScript.*save it as JPEG or PNG"):
            load_image(tmp_path / name)
    small.save(tmp_path / "a.tga")
    small.save(tmp_path / "a.ico")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "a.mpg").write_bytes(b"\0\0\1\xb3" + bytes(100))
    for suffix in ("tga", "ico", "h5", "mpg"):
        assert f".{suffix}" not in image_suffixes()
        with pytest.raises(InputError, match=rf"a\.{suffix} is not an image in a format that is read \(JPEG, PNG,"):
            load_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page: download the picture itself"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video: save its frames"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "can't be used"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a damaged WEBP file|can't be used"),
        (b"\xff\x0a" + bytes(30), "a JPEG XL file"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.jpg .*({said})"):
        load_image(tmp_path / "a.jpg")


def test_heic_is_read_with_its_plugin_and_named_without(small: Image.Image, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    path, disguised = tmp_path / "IMG.HEIC", tmp_path / "IMG.jpg"
    heif.from_pillow(small.transpose(upside_down[6])).save(path, quality=100, exif=exif.tobytes())
    disguised.write_bytes(path.read_bytes())
    for file in (path, disguised):
        found = np.asarray(load_image(file), int)
        assert found.shape == (30, 40, 3)
        assert np.abs(found - np.asarray(small, int)).mean() < 4
    assert ".heic" in image_suffixes()


def test_heic_without_its_plugin(tmp_path: Path, without_heif: None) -> None:
    assert ".heic" not in image_suffixes()
    (tmp_path / "IMG.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(InputError, match=r"IMG\.jpg .*HEIC.*convert them, or `pip install pillow-heif`"):
        load_image(tmp_path / "IMG.jpg")


def test_places_that_can_t_be_opened(tmp_path: Path) -> None:
    for name in ("x" * 5000 + ".jpg", "nul\0.jpg"):
        with pytest.raises(InputError, match="can't be opened"):
            load_image(tmp_path / name)
    with pytest.raises(InputError, match="0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)))


def test_whatever_pillow_raises_is_that_file_s_sentence(
    small: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(tmp_path / "a.bmp")
    for error in (KeyError("x"), AssertionError(), RuntimeError("line\nline"), zlib.error("bad"), RecursionError()):

        def fail(*args: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image.Image, "load", fail)
        with pytest.raises(InputError, match=r"a\.bmp can't be used \(.+\): save it again") as raised:
            load_image(tmp_path / "a.bmp")
        assert "\n" not in str(raised.value)


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
    with pytest.raises(InputError, match=r"bomb\.png has 1,200 pixels: make it smaller, 200 at most are read"):
        load_image(tmp_path / "bomb.png")


def test_a_png_of_400_megapixels_is_refused_by_its_header(tmp_path: Path) -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    (tmp_path / "wall.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(InputError, match=r"wall\.png has 400,000,000 pixels: make it smaller, 178,956,970 at most"):
        load_image(tmp_path / "wall.png")


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
