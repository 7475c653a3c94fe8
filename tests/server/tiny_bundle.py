"""A bundle to serve: a one-block T16 at 64 pixels with labels and a narrow text tower, of synthetic weights.

python -m tests.server.tiny_bundle FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path

MODEL_ID = "PE-Core-T16-64"
LABELS = ["cat", "dog", "rocket", "astronaut", "cup of coffee", "red panda"]


def write_bundle(folder: Path) -> None:
    """Convert it; takes some seconds."""
    from pecore.convert import pipeline
    from pecore.convert.checkpoint import load
    from pecore.convert.label_embeddings import write_labels
    from pecore.convert.text_tower import load_text, text_config
    from pecore.variants import find

    def silent(line: str) -> None:
        pass

    tiny = replace(find("T16"), depth=1, image_size=64)
    options = pipeline.VisionOptions(precisions=("fp16",), gpu="skip")
    assert pipeline.convert(tiny, load(tiny, "synthetic"), folder, options, silent).passed
    config = replace(text_config(tiny), layers=1, width=64, heads=2)
    texts = load_text(tiny, "synthetic", config=config)
    assert pipeline.convert_text(
        tiny, texts, folder, pipeline.GateOptions(("fp32",), gpu="skip"), silent, config
    ).passed
    write_labels(folder, tiny, texts, LABELS, ["a photo of a {}."], silent, config=config)


if __name__ == "__main__":
    write_bundle(Path(sys.argv[1]))
