"""Which images a list of paths means."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pecore.errors import InputError


def image_suffixes() -> frozenset[str]:
    """Endings, lower-case with their dot, of the files that Pillow reads."""
    return frozenset(s for s, name in Image.registered_extensions().items() if name in Image.OPEN)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and every image under folders, in the order of their names, each once.

    Hidden files and folders are left out; a file named outright is taken whatever its ending.

    Raises:
        InputError: a path that does not exist, or a folder without any image.
    """
    suffixes = image_suffixes()
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            images = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file()]
            images = [p for p in images if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not images:
                raise InputError(f"there is no image file in {path}; name a folder with photographs (JPEG, PNG, ...)")
            found.update(dict.fromkeys(images))
        elif path.exists():
            found[path] = None
        else:
            raise InputError(f"there is no {path}; name an image file or a folder of them")
    return list(found)
