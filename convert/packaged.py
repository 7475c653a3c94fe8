"""The checkpoint that comes with this package (`weights/README.md`): where its files are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pecore.variants import Variant

FOLDER = Path(__file__).parent / "weights"


def checkpoint_file(variant: Variant) -> Path:
    """Both towers of a `packaged` variant, with open_clip's keys."""
    return FOLDER / f"{variant.open_clip_name}.safetensors"


def open_clip_config(variant: Variant) -> dict[str, Any]:
    """The sizes of both towers as open_clip's model configurations have them, of any variant with a text tower."""
    if variant.packaged:
        config: dict[str, Any] = json.loads((FOLDER / f"{variant.open_clip_name}.json").read_text("utf-8"))
        return config

    import open_clip

    found: dict[str, Any] = open_clip.get_model_config(variant.open_clip_name)
    return found
