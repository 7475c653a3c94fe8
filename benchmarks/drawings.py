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
WEIGHTS = ("fp16", "int8")
BACKENDS = {"cpu": 1, "gpu": 4}
"""Backend -> one in so many pictures: a software driver takes a quarter of a second for one."""


def measure(pictures: Path, style: str, bundle: Path) -> dict[str, Any]:
    """Rows of `pecore.evaluate.Evaluation` on a style's held-out pictures, among their names, for each backend."""
    folder = FOLDER / "drawings" / style
    lay_out(rows(pictures, style), folder)
    names = read_label_names(str(folder / "labels.txt"))
    write_labels(folder / "labels", find(SIZE), load_text(find(SIZE)), names, TEMPLATES, lambda line: None)
    found: dict[str, Any] = {"names": len(names)}
    for backend, step in BACKENDS.items():
        encoders = [PerceptionEncoder(bundle, weights=w, backend=backend, labels=folder / "labels") for w in WEIGHTS]  # type: ignore[arg-type]
        labels = encoders[0].labels
        towers = [pytorch_candidate(encoders[0].bundle)]
        towers += [Candidate(w, e.backend, e.embed_pixels) for w, e in zip(WEIGHTS, encoders, strict=True)]
        samples = read_dataset(folder / "images", labels.labels).samples[::step]
        with counting(f"{style} on {backend}", len(samples)) as advance:
            result = evaluate(towers, samples, labels, find(SIZE).image_size, advance)
        found[backend] = {"pictures": len(result.samples), "towers": result.rows()}
    return found


def accuracy(contents: results.Contents) -> Section:
    """Both sets, tower by tower."""
    found = contents["drawings"]["styles"]
    table = [[style, *row] for style in STYLES for row in _rows(found[style])]
    notes = [f"{style}: {title}; {found[style]['names']:,} names to choose from." for style, title in STYLES.items()]
    notes.append(f"On ML Drift one picture in {BACKENDS['gpu']}, on a software driver.")
    return Section(["held out", *COLUMNS], table, notes)


def trained(contents: results.Contents) -> Section:
    """The held-out style alone."""
    return Section(COLUMNS, _rows(contents["drawings"]["styles"]["openmoji"]))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    table = []
    for backend, where in WHERE.items():
        for row in found[backend]["towers"]:
            name = row["tower"] if row["backend"] == "PyTorch" else f"{row['tower']} .tflite, {where}"
            figures = [f"{100 * row[figure]:.1f} %" for figure in ("top1", "top5", "agreement")]
            table.append([name, f"{found[backend]['pictures']:,}", *figures, f"{row['least_cosine']:.5f}"])
    return table


COLUMNS = ["tower", "pictures", "top-1", "top-5", "same top label", "least cosine"]
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
