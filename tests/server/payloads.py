"""Images as requests carry them."""

import base64
import io

from PIL import Image


def base64_of(image: Image.Image, form: str = "PNG") -> str:
    """An image file of that format, in base64."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


def of(value: str) -> dict[str, str]:
    """Roboflow's form of an image."""
    return {"type": "base64", "value": value}
