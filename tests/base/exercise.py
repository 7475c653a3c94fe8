"""What an install without extras does with a bundle, in one process of its own.

    python exercise.py BUNDLE PICTURES [--block]

BUNDLE has labels and a text tower, PICTURES holds images. Prints one JSON object: embeddings, labels, and what each
verb said. With `--block` the packages of the extras can't be imported, as if they were not installed. Nothing of the
test suite is needed: a fresh environment with the wheel runs it as it is.
"""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

BLOCKED = frozenset(
    {
        *("torch", "torchvision", "timm", "open_clip", "litert_torch", "litert_converter", "ai_edge_quantizer"),
        *("huggingface_hub", "safetensors", "matplotlib", "skimage", "sklearn", "scipy", "transformers"),
        *("tensorflow", "onnx", "onnxruntime", "openvino"),
    }
)


class Blocker(MetaPathFinder):
    """Makes blocked packages look as if they were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def verb(*args: str) -> dict[str, Any]:
    """Exit code and what a verb printed."""
    from pecore.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(args)
        except SystemExit as ended:
            return {"code": ended.code or 0, "out": out.getvalue(), "err": err.getvalue()}
    return {"code": 0, "out": out.getvalue(), "err": err.getvalue()}


def exercise(bundle: str, pictures: str) -> dict[str, Any]:
    """Everything the base is for."""
    from pecore import PerceptionEncoder

    encoder = PerceptionEncoder(bundle)
    images: Sequence[Path] = sorted(Path(pictures).iterdir())
    model = str(encoder.file)
    return {
        "image": encoder.embed_image(images[0])[0].tolist(),
        "text": encoder.embed_text("a photo of a cat")[0].tolist(),
        "labels": [p.label for p in encoder.classify(images[0], top_k=3)],
        "cosines": encoder.compare(images[0], ["a cat", "a dog"]),
        "classify": verb("classify", str(images[0]), "--bundle", bundle, "--json"),
        "compare": verb("compare", str(images[0]), "a cat", "--bundle", bundle, "--json"),
        "inspect": verb("inspect", model, "--json"),
        "validate": verb("validate", bundle, "--no-gpu", "--json"),
        "list": verb("list"),
        "convert": verb("convert", "--size", "T16", "--weights", "synthetic"),
        "rewrite": _import("from pecore import rewrite"),
        "loaded": sorted(BLOCKED & {name.partition(".")[0] for name in sys.modules}),
    }


def _import(line: str) -> str:
    try:
        exec(line, {})
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    return "imported"


if __name__ == "__main__":
    if "--block" in sys.argv:
        sys.meta_path.insert(0, Blocker())
    print(json.dumps(exercise(sys.argv[1], sys.argv[2])))
