"""Record a bundle's zero-shot classification, for the implementations to replay: same outputs in, same top-1 out.

    python scripts/record_zero_shot.py tests/zero_shot/drawings build/web/trained/bundle tests/drawings/images

The folder to write, a bundle with both towers (that one is what the page is tested with, `make web`), and PICTURES.
PICTURES has a folder for every label. What is written: `recording.json` (labels, template, the prompts' ids, and for
every picture its label and Python's top-1), `prompts.f32` and `images.f32` (what the towers answered, a float32 row
each), and `tokenizer.json`, cut down to the prompts. Without arguments it writes `tests/zero_shot/made_up`: T16's text
tower with one block and synthetic weights, and pictures' rows that are labels' rows with noise.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from write_text_vectors import CONFIG, CONTEXT_LENGTH, VARIANT, cut_down

from pecore.bundle import open_bundle
from pecore.convert.text_tower import build_text_tower, encode_ids, load_text, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.encoder import PerceptionEncoder
from pecore.image_files import find_images
from pecore.text import open_text_encoder

TEMPLATE = "a photo of a {}"
MADE_UP = Path(__file__).parents[1] / "tests" / "zero_shot" / "made_up"


@dataclass(frozen=True)
class Recording:
    """What the towers answered: `prompts` `[labels, dim]` and `images` `[n, dim]` float32, as they came; `truth` `[n]`
    is the label of each picture."""

    of: str
    labels: Sequence[str]
    prompts: np.ndarray
    images: np.ndarray
    truth: Sequence[int]
    logit_scale: float

    def top1(self) -> np.ndarray:
        """The label that each picture is nearest to, in float64; of equal ones the first."""
        rows, images = self.prompts.astype(np.float64), self.images.astype(np.float64)
        return (images @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T).argmax(axis=1)


def recorded(bundle: Path, pictures: Path) -> Recording:
    """What a bundle with both towers makes of the pictures."""
    opened = open_bundle(bundle)
    labels = sorted(path.name for path in pictures.iterdir() if path.is_dir())
    files = [(file, i) for i, label in enumerate(labels) for file in find_images([pictures / label])]
    prompts = open_text_encoder(opened)([TEMPLATE.replace("{}", label) for label in labels])
    encoder = PerceptionEncoder(bundle)
    images = np.concatenate([encoder.embed_image(file) for file, _ in files])
    text = opened.manifest.text
    assert text is not None
    return Recording(opened.manifest.name, labels, prompts, images, [i for _, i in files], text.logit_scale)


def made_up() -> Recording:
    """Labels' rows with noise, so that some are taken for another label."""
    labels = ["cat", "dog", "red panda", "rocket", "cup of coffee", "été", "bicycle", "lemon"]
    text = load_text(VARIANT, "synthetic", config=CONFIG)
    ids = token_ids(clip_tokenizer(), [TEMPLATE.replace("{}", label) for label in labels], CONTEXT_LENGTH)
    prompts = encode_ids(build_text_tower(CONFIG, text.state_dict), ids).numpy()
    rng = np.random.default_rng(0)
    truth = np.arange(40) % len(labels)
    rows = prompts - prompts.mean(axis=0)
    loudness = 2 * np.linalg.norm(rows, axis=1).mean() / rows.shape[1] ** 0.5
    noise = rng.normal(size=(len(truth), rows.shape[1])) * loudness
    images = (rows[truth] + noise).astype(np.float32)
    return Recording("synthetic weights, made-up pictures", labels, prompts, images, truth.tolist(), text.logit_scale)


def write(folder: Path, recording: Recording) -> None:
    """Write a recording to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [TEMPLATE.replace("{}", label) for label in recording.labels]
    top1 = recording.top1()
    (folder / "prompts.f32").write_bytes(recording.prompts.astype("<f4").tobytes())
    (folder / "images.f32").write_bytes(recording.images.astype("<f4").tobytes())
    (folder / "tokenizer.json").write_text(cut_down(prompts), encoding="utf-8")
    content = {
        "format": 1,
        "written_by": "scripts/record_zero_shot.py",
        "of": recording.of,
        "template": TEMPLATE,
        "labels": list(recording.labels),
        "ids": clip_tokenizer()(prompts, CONTEXT_LENGTH).tolist(),
        "dim": recording.prompts.shape[1],
        "logit_scale": recording.logit_scale,
        "truth": list(recording.truth),
        "top1": top1.tolist(),
        "accuracy": float((top1 == np.array(recording.truth)).mean()),
    }
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    (folder / "recording.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        write(MADE_UP, made_up())
    else:
        write(Path(sys.argv[1]), recorded(Path(sys.argv[2]), Path(sys.argv[3])))
