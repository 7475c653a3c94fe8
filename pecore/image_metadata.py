"""An image's metadata: the one entry that is wanted, its orientation, and a file without all the rest.

Cameras, editors and messengers write metadata that is damaged, misdeclared or huge. None of it is a reason to refuse
the pixels.
"""

import re
import struct

from PIL import ExifTags, Image

ORIENTATION = ExifTags.Base.Orientation

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright; 1 and anything else is upright."""

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
JPEG_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
"""Markers APP1 to APP13, APP15 and COM. APP0 and APP14 say how the colours are coded."""

APP0, JFIF_LENGTH = 0xE0, 18
"""What is shorter is no JFIF header: decoders ignore it."""

INTEGERS = {1: "B", 3: "H", 4: "I"}
"""EXIF's code of a type -> `struct`'s. The standard has the orientation as the second; others are written too."""

EXIF_START = b"Exif\0\0"
CODING = (*range(254, 260), 262, 266, 277, 284, *range(290, 294), 317, 320, 321, 332, *range(338, 342), 347, 50674)
PLACES = (273, 278, 279, *range(322, 326), *range(512, 522), *range(529, 533))
UPRIGHT = 274
TIFF_PIXELS = frozenset((*CODING, *PLACES, UPRIGHT))
"""Tags that say where a TIFF's pixels are, how they are coded, and which way is up."""

ITEM = re.compile(rb"(infe[\x02\x03].{3}(?:.{4}|.{6}))(?:Exif|mime)", re.DOTALL)
"""The entry of a metadata item in an AVIF or HEIC file: version 2 has short item numbers, 3 long ones."""


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """The picture as its orientation means it; `orientation` of its metadata by default, where unreadable is 1."""
    if orientation is None:
        orientation = _orientation(image)
    turn = TURNS.get(orientation)
    if turn is None:
        return image
    turned = image.transpose(turn)
    # Only what decides the pixels: with its orientation it would be turned again by whoever asks next.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _orientation(image: Image.Image) -> int:
    exif = image.info.get("exif")
    found = orientation_in(exif) if isinstance(exif, bytes) else None
    if found is not None:
        return found
    try:  # XMP, an older PNG's hexadecimal text, what a caller has set
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever Pillow raises about metadata that is no metadata
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def orientation_in(exif: bytes) -> int | None:
    """The orientation, 1 to 8, in a block of EXIF data: that entry of its first directory, whatever the others are.
    None where there is none, or it can't be read."""
    data = exif.removeprefix(EXIF_START)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, at)
            if tag == ORIENTATION and kind in INTEGERS:
                (value,) = struct.unpack_from(order + INTEGERS[kind], data, at + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def without_metadata(data: bytes) -> tuple[bytes, int | None] | None:
    """An image file with nothing but its pixels in it, and the orientation that was among the rest (None where the
    pixels still have theirs); None for formats in which metadata is no obstacle, and for what is damaged."""
    try:
        if data.startswith(PNG_START):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data), None
        if data[4:8] == b"ftyp":
            return ITEM.sub(rb"\1skip", data), None
    except (struct.error, IndexError):
        pass
    return None


def _png(data: bytes) -> tuple[bytes, int]:
    kept, at, orientation = [PNG_START], len(PNG_START), 1
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in PNG_PIXELS:
            kept.append(data[at : at + length + 12])
        elif kind == b"eXIf":
            orientation = orientation_in(data[at + 8 : at + 8 + length]) or 1
        at += length + 12
        if kind == b"IEND":
            break
    return b"".join(kept), orientation


def _jpeg(data: bytes) -> tuple[bytes, int]:
    kept, at, orientation = [data[:2]], 2, 1
    while data[at] == 0xFF and data[at + 1] != 0xDA:  # until the first scan
        if data[at + 1] == 0xFF:  # a byte that fills up
            at += 1
            continue
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        segment = data[at:end]
        if data[at + 1] not in JPEG_METADATA and not (data[at + 1] == APP0 and len(segment) < JFIF_LENGTH):
            kept.append(segment)
        elif segment[4:].startswith(EXIF_START):
            orientation = orientation_in(segment[4:]) or 1
        at = end
    return b"".join([*kept, data[at:]]), orientation


def _tiff(data: bytes) -> bytes:
    """With a directory of `TIFF_PIXELS` alone, which goes to the end of the file; what it points at stays in place."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    body = data + bytes(len(data) % 2)
    return body[:4] + struct.pack(f"{order}I", len(body)) + body[8:] + directory
