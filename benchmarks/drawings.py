"""Zero-shot accuracy of the trained tower in this package on drawings that it has never seen, file by file.

    python -m benchmarks.drawings build/training    the folder that `python -m training.pictures` made

A whole style that was held out (OpenMoji), and the tenth of the clip-arts whose names were held out; PyTorch's tower,
and the fp16 and int8 files on LiteRT's CPU and on ML Drift in fp16. `python -m benchmarks.page` makes the tables.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.section import Section
from benchmarks.workspace import FOLDER
from pecore.console import counting, progress
from pecore.convert.checkpoint import load
from pecore.convert.label_embeddings import write_labels
from pecore.convert.label_files import read_label_names
from pecore.convert.load import pytorch_candidate
from pecore.convert.pipeline import VisionOptions, convert
from pecore.convert.text_tower import load_text
from pecore.dataset import read_dataset
from pecore.encoder import PerceptionEncoder
from pecore.evaluate import Candidate, evaluate
from pecore.variants import find
from training.held_out import lay_out, rows

SIZE = "drawings-T16"
STYLES = {"openmoji": "OpenMoji, a style never trained on", "clip-art": "clip-arts with names never trained on"}
TEMPLATES = ("a drawing of a {}",)
RUNS = (("fp16", "cpu"), ("int8", "cpu"), ("fp16", "gpu"), ("int8", "gpu"))


def measure(pictures: Path, style: str, bundle: Path) -> dict[str, Any]:
    """Rows of `pecore.evaluate.Evaluation` on a style's held-out pictures, among their names."""
    folder = FOLDER / "drawings" / style
    lay_out(rows(pictures, style), folder)
    names = read_label_names(str(folder / "labels.txt"))
    write_labels(folder / "labels", find(SIZE), load_text(find(SIZE)), names, TEMPLATES, lambda line: None)
    encoders = [PerceptionEncoder(bundle, weights=w, backend=b, labels=folder / "labels") for w, b in RUNS]  # type: ignore[arg-type]
    towers = [pytorch_candidate(encoders[0].bundle)]
    towers += [Candidate(f"{w} .tflite", e.backend, e.embed_pixels) for (w, _), e in zip(RUNS, encoders, strict=True)]
    samples = read_dataset(folder / "images", encoders[0].labels.labels).samples
    with counting(style, len(samples)) as advance:
        result = evaluate(towers, samples, encoders[0].labels, find(SIZE).image_size, advance)
    return {"pictures": len(result.samples), "names": len(names), "towers": result.rows()}


def accuracy(contents: results.Contents) -> Section:
    """Both sets, tower by tower."""
    found = contents["drawings"]["styles"]
    table = [[style, *row] for style in STYLES for row in _rows(found[style])]
    notes = [
        f"{style}: {title}; {found[style]['pictures']:,} pictures, {found[style]['names']:,} names to choose from."
        for style, title in STYLES.items()
    ]
    return Section(["held out", *COLUMNS], table, notes)


def trained(contents: results.Contents) -> Section:
    """The held-out style alone."""
    return Section(COLUMNS, _rows(contents["drawings"]["styles"]["openmoji"]))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    table = []
    for row in found["towers"]:
        where = row["tower"] if row["backend"] == "PyTorch" else f"{row['tower']}, {WHERE[row['backend']]}"
        figures = [f"{100 * row[name]:.1f} %" for name in ("top1", "top5", "agreement")]
        table.append([where, *figures, f"{row['least_cosine']:.5f}"])
    return table


COLUMNS = ["tower", "top-1", "top-5", "same top label", "least cosine"]
WHERE = {"cpu": "CPU", "gpu": "ML Drift fp16"}
SECTIONS = {"drawings": accuracy, "trained": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    options = parser.parse_args()
    variant, bundle = find(SIZE), FOLDER / "drawings" / "bundle"
    with progress() as log:
        made = VisionOptions(precisions=("fp16", "int8"), gpu="skip")
        convert(variant, load(variant), bundle, made, log)
    styles = {style: measure(options.pictures, style, bundle) for style in STYLES}
    results.write("drawings", {"size": SIZE, "templates": TEMPLATES, "styles": styles})


if __name__ == "__main__":
    main()
