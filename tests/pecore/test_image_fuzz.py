"""Pictures nobody wrote on purpose: whatever the bytes, an image comes out, or an InputError and nothing else."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pecore.errors import InputError
from pecore.image import decode
from pecore.image_formats import READ, read_formats
from pecore.image_metadata import orientation_in, without_metadata

ROUNDS = 1000  # of each format: two seconds for all of them together
PICTURE = Image.fromarray(data.astronaut()).resize((24, 18))
MODES = {"GIF": "P", "PPM": "RGB"}
OPTIONS = {"TIFF": {"compression": "tiff_lzw"}, "AVIF": {"speed": 10}, "JPEG2000": {"irreversible": False}}
TAGS = (0x0100, 0x010F, 0x0112, 0x011A, 0x0128, 0x0131, 0x0132, 0x014A, 0x02BC, 0x83BB, 0x8649, 0x8769, 0x8825, 0xA005)
OFFSETS = (0, 1, 2, 6, 8, 20, 100, 2**31, 2**32 - 1)


def whole(name: str, exif: bytes = b"") -> bytes:
    file, options = BytesIO(), dict(OPTIONS.get(name, {}))
    if exif and name in ("JPEG", "PNG", "WEBP"):
        options["exif"] = exif
    PICTURE.convert(MODES.get(name, "RGB")).save(file, name, **options)
    return file.getvalue()


def outcome(content: bytes) -> Image.Image | None:
    """The picture, checked for what every caller relies on; None where the file was refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode(BytesIO(content), "a file")
        except InputError as error:
            said = str(error)
            image = None
    if image is None:
        assert said.startswith("a file ")
        assert "\n" not in said
        return None
    assert image.mode == "RGB"
    assert min(image.size) > 0
    return image


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(content)
    kind = rng.integers(0, 5)
    start = int(rng.integers(0, min(len(out), 200) if kind < 3 else len(out)))
    if kind in (0, 3):  # bytes changed, near the beginning most of the time
        for place in rng.integers(start, min(start + 40, len(out)), int(rng.integers(1, 6))):
            out[place] = int(rng.integers(0, 256))
    elif kind == 1:  # a piece taken out, or put in
        length = int(rng.integers(1, 20))
        out[start : start + length] = rng.bytes(int(rng.integers(0, 20)))
    elif kind == 2:  # a large number where there was another
        out[start : start + 4] = struct.pack(">I", int(rng.choice([0, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])))
    else:
        del out[start:]
    return bytes(out)


@pytest.mark.parametrize("name", READ)
def test_mutated_files_of_every_format(name: str) -> None:
    if name not in read_formats():
        pytest.skip(f"this Pillow reads no {name}")
    rng, content, seen = np.random.default_rng(len(name)), whole(name), 0
    assert outcome(content) is not None
    for _ in range(ROUNDS):
        seen += outcome(mutated(content, rng)) is not None
    assert seen < ROUNDS  # mutations do something


def random_exif(rng: np.random.Generator) -> tuple[bytes, int]:
    """Entries of any type, count and value, all in one block, and the orientation that is among them."""
    orientation = int(rng.integers(1, 9))
    entries = [
        struct.pack("<HHII", int(rng.choice(TAGS)), *(int(n) for n in (rng.integers(0, 15), *rng.choice(OFFSETS, 2))))
        for _ in range(rng.integers(0, 6))
    ]
    entries = [entry for entry in entries if entry[:2] != b"\x12\x01"]
    entries.insert(int(rng.integers(0, len(entries) + 1)), struct.pack("<HHII", 0x0112, 3, 1, orientation))
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + rng.bytes(int(rng.integers(4, 40)))
    return b"Exif\0\0" + block, orientation


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_random_metadata_leaves_the_pixels_and_the_orientation(name: str) -> None:
    rng, plain = np.random.default_rng(5), {}
    for orientation in range(1, 9):
        plain[orientation] = np.asarray(outcome(whole(name, exif_of(orientation))))
    assert len({array.tobytes() for array in plain.values()}) == 8
    for _ in range(ROUNDS):
        exif, orientation = random_exif(rng)
        assert orientation_in(exif) == orientation
        found = outcome(whole(name, exif))
        assert found is not None
        assert np.array_equal(found, plain[orientation])


def exif_of(orientation: int) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)


def test_random_chunks_of_a_png_and_segments_of_a_jpeg() -> None:
    rng = np.random.default_rng(6)
    png, jpeg = whole("PNG"), whole("JPEG")
    expected = np.asarray(PICTURE), np.asarray(outcome(jpeg))
    chunks = (
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"tEXt",
        b"eXIf",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"acTL",
        b"fcTL",
        b"bKGD",
    )
    starts = (b"Photoshop 3.0\0", b"ICC_PROFILE\0", b"MPF\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"")
    for _ in range(ROUNDS):
        kind, body = chunks[int(rng.integers(0, len(chunks)))], rng.bytes(int(rng.integers(0, 60)))
        if rng.integers(0, 2):
            body = b"key\0\0" + zlib.compress(body)
        body = body.replace(b"II", b"xx").replace(b"MM", b"xx")
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        place = 33 if rng.integers(0, 2) else len(png) - 12
        assert np.array_equal(np.asarray(outcome(png[:place] + chunk + png[place:])), expected[0]), (kind, body)

        marker = int(rng.choice([*range(0xE1, 0xEE), 0xEF, 0xFE]))
        body = starts[int(rng.integers(0, len(starts)))] + body[:50]
        segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
        assert np.array_equal(np.asarray(outcome(jpeg[:2] + segment + jpeg[2:])), expected[1]), (marker, body)


def test_random_tags_of_a_tiff() -> None:
    rng, content = np.random.default_rng(7), whole("TIFF")
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries, read = content[start + 2 : start + 2 + 12 * count], 0
    for _ in range(ROUNDS):
        more = [
            struct.pack("<HHII", int(tag), int(rng.integers(0, 15)), *(int(n) for n in rng.choice(OFFSETS, 2)))
            for tag in rng.choice(TAGS[1:], int(rng.integers(1, 4)))
            if tag not in (0x0112, 0x014A)
        ]
        directory = struct.pack("<H", count + len(more)) + entries + b"".join(more) + bytes(4)
        body = content[:4] + struct.pack("<I", len(content)) + content[8:] + directory
        assert np.array_equal(np.asarray(outcome(body)), np.asarray(PICTURE)), more
        read += 1
    assert read == ROUNDS


def test_noise_and_what_is_left_without_metadata() -> None:
    rng = np.random.default_rng(8)
    for start in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"MM\0*",
        b"\0\0\0\x18ftypavif",
        b"GIF89a",
        b"BM",
        b"P6 ",
        b"",
    ):
        for _ in range(40):
            content = start + rng.bytes(int(rng.integers(0, 200)))
            without_metadata(content)  # raises nothing
            outcome(content)
