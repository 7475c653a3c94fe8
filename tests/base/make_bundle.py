"""Make the bundle and pictures that `exercise.py` runs on: a one-block T16 at 64 pixels with labels and a text tower.

    python tests/base/make_bundle.py FOLDER

writes FOLDER/bundle and FOLDER/pictures, and FOLDER/expected.json: PyTorch's embeddings for them.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from pecore.convert.checkpoint import load
from pecore.convert.label_embeddings import write_labels
from pecore.convert.pipeline import GateOptions, VisionOptions, convert, convert_text
from pecore.convert.text_tower import build_text_tower, encode_ids, load_text, text_config, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.variants import find

LABELS = ["cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda"]
TEXT = "a photo of a cat"


def make(folder: Path) -> None:
    """Write everything into `folder`."""
    variant = replace(find("T16"), depth=1, image_size=64)
    config = replace(text_config(variant), layers=1, width=64, heads=2)
    bundle, pictures = folder / "bundle", folder / "pictures"
    pictures.mkdir(parents=True)
    for name in ("astronaut", "chelsea"):
        Image.fromarray(getattr(data, name)()).save(pictures / f"{name}.png")
    weights, text = load(variant, "synthetic"), load_text(variant, "synthetic", config=config)
    convert(variant, weights, bundle, VisionOptions(("fp16", "int8"), gpu="skip"), _quiet)
    convert_text(variant, text, bundle, GateOptions(("fp32",), gpu="skip"), _quiet, config)
    write_labels(bundle, variant, text, LABELS, ["a photo of a {}."], _quiet, config=config)

    image = torch.from_numpy(preprocess(pictures / "astronaut.png", variant.image_size))
    ids = token_ids(clip_tokenizer(), [TEXT], config.context_length)
    with torch.no_grad():
        expected = {
            "image": F.normalize(build_tower(variant, weights.state_dict)(image), dim=-1)[0].tolist(),
            "text": encode_ids(build_text_tower(config, text.state_dict), ids)[0].tolist(),
        }
    (folder / "expected.json").write_text(json.dumps(expected))


def _quiet(line: str) -> None:
    pass


if __name__ == "__main__":
    make(Path(sys.argv[1]))
