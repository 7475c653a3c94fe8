"""Which image formats are read, which are only recognised, and what a file that is neither seems to be.

A list of ours, not whatever Pillow has a plugin for: that takes .h5 and .mpg for images, and starts another program,
Ghostscript, on a PostScript file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

from PIL import Image

READ: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Pillow's name of a format -> its endings."""

NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PPM"
HEIC = (".heic", ".heics", ".heif", ".heifs", ".hif")
"""Endings of the format that `pillow-heif` reads."""

RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 "
    ".srf .srw .x3f"
)
"""Endings of cameras' raw files."""

OTHERS = (
    ".ai .bpg .cur .dcm .dds .djvu .emf .eps .exr .fits .hdr .icns .ico .jxl .jxr .pcx .pfm .psb .psd .qoi .sgi .svg "
    ".svgz .tga .wmf .xbm .xcf .xpm"
)
"""Endings of images in formats that are not read."""

CONVERT = "convert them to JPEG or PNG"
CONVERT_HEIC = "convert them, or `pip install pillow-heif`"

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF file"),
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PK\x03\x04", "a zip file"),
)
"""How a file begins -> a key of `READ`, or what it is in words."""

HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
AVIF_BRANDS = frozenset((b"avif", b"avis"))
HEIF = "a HEIC picture"


@cache
def read_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here: `READ`, as far as this Pillow has it, and HEIF where
    `pillow-heif` is installed."""
    Image.init()
    heif = ("HEIF",) if reads_heif() else ()
    return tuple(name for name in READ if name in Image.OPEN) + heif


@cache
def reads_heif() -> bool:
    """Whether `pillow-heif` is installed; registers it with Pillow."""
    if find_spec("pillow_heif") is None:
        return False
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except (ImportError, OSError):  # installed, and the library in it can't be loaded
        return False
    return True


def image_suffixes() -> frozenset[str]:
    """Endings, lower-case with their dot, of the files that are read."""
    heic = HEIC if reads_heif() else ()
    return frozenset([*heic, *(suffix for name in read_formats() for suffix in READ.get(name, ()))])


def kind_left_out(suffix: str) -> str | None:
    """What an image file with this ending (lower-case) counts as where it is not read, `HEIC` or `RAW`; None for files
    that are read, and for what is no image."""
    if suffix in image_suffixes():
        return None
    if suffix in HEIC:
        return "HEIC"
    if suffix in RAW.split():
        return "RAW"
    known = suffix in OTHERS.split() or any(suffix in suffixes for suffixes in READ.values())
    return suffix[1:].upper() if known else None


def seems_to_be(start: bytes) -> str | None:
    """What a file that begins with these bytes is: a key of `READ`, words such as `a PDF file`, or None."""
    if start[4:8] == b"ftyp":
        brands = {start[8:12], *(start[i : i + 4] for i in range(16, min(len(start), 40), 4))}
        if brands & AVIF_BRANDS:
            return "AVIF"
        return HEIF if brands & HEIF_BRANDS else "a video"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:1] == b"P" and start[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and start[2:3].isspace():
        return "PPM"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return next((what for magic, what in MAGIC if start.startswith(magic)), None)
