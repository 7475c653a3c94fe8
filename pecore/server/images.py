"""Images out of requests: base64 or a data URL, decoded from bytes. A string is never a path and never an address."""

import base64
import binascii
import io
import re
from typing import Any

from PIL import Image

from pecore.errors import InputError
from pecore.image import load_image
from pecore.server.errors import bad_image, shown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded. Pillow has more, some of which run programs (EPS) or decoders that few people look at."""

DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4};base64,", re.IGNORECASE)


def decode(reference: Any, where: str, most_pixels: int) -> Image.Image:
    """The image in a request, 8-bit RGB, upright, on white.

    Args:
        reference: base64, a data URL of it, or `{"type": "base64", "value": ...}`.
        where: the field, for the message.

    Raises:
        ApiError: 400, naming the field and what is wrong with it.
    """
    value = reference["value"] if isinstance(reference, dict) else reference
    return open_image(_bytes(value, where), where, most_pixels)


def _bytes(value: str, where: str) -> bytes:
    prefix = DATA_URL.match(value)
    text = value[prefix.end() if prefix else 0 :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_image(
            f"{where} is not an image in base64: {shown(value)} (paths and addresses are not taken)"
        ) from error


def open_image(data: bytes, where: str, most_pixels: int) -> Image.Image:
    """The image in a file's bytes; its size is read from the header, and nothing decoded beyond `most_pixels`.

    Raises:
        ApiError: 400, naming the field and what is wrong with it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise bad_image(f"{where} is larger than {most_pixels / 1e6:g} megapixels: send it smaller") from error
    except Image.UnidentifiedImageError as error:
        raise bad_image(f"{where} is no image in a format that is taken: send {', '.join(FORMATS)}") from error
    except Exception as error:  # a plugin's own, on a header that was made up
        raise bad_image(f"{where} can't be read as an image ({type(error).__name__}): send a JPEG or PNG") from error
    width, height = image.size
    if width * height > most_pixels:
        limit = f"{most_pixels / 1e6:g} megapixels"
        raise bad_image(f"{where} is {width} x {height} pixels, and the limit is {limit}: send it smaller")
    try:
        return load_image(image)
    except InputError as error:
        raise bad_image(f"{where}: {error}") from error
    except Exception as error:
        raise bad_image(f"{where} can't be decoded ({type(error).__name__}): send a JPEG or PNG") from error
