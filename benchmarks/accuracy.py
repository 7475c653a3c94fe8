"""How right each file is: on photographs at full depth, and over the amplitude of the residual stream.

    python -m benchmarks.accuracy --size B16 --sweep-depth 2

Full depth: fp32, fp16 and int8 on LiteRT's CPU and on ML Drift, against PyTorch, with the share of photographs whose
top label stays the same. The sweep takes the first blocks alone and compares three forms of LayerNorm on ML Drift in
fp16 (`validate/ablation.py`), and our three files on the CPU.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import results
from benchmarks.section import Section, nines
from benchmarks.workspace import FOLDER, GRAPHS, Workspace
from pecore.console import progress
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tflite_files import write_fp16
from pecore.convert.towers import build_tower
from pecore.figures import new_figure, plain_axes, save_figure
from pecore.image import preprocess
from pecore.precision import COMPUTES
from pecore.runtime import open_model
from pecore.timing import spread
from pecore.validate.ablation import ablate, choose_rows
from pecore.validate.gpu import Verdict, probe, run_on_gpu
from pecore.validate.parity import compare
from pecore.validate.photographs import photographs
from pecore.variants import find

FILES = ("ours-fp32", "ours-fp16", "ours-int8")
FORMS = {
    "none": ("ours: scaled domain", "#1f6fb4", "o"),
    "norm-published": ("published form: x/32, variance rebuilt", "#e08214", "s"),
    "norm": ("plain LayerNorm", "#c62828", "v"),
}
"""Row of the ablation -> what it is called, and how it is drawn."""
AMPLITUDES = (0.0, 100.0, 400.0, 2000.0, 8000.0, 20000.0)
LABELS = 1000
ON_GPU = 2
"""Photographs that go through the delegate: a software driver takes half a minute for each."""


def crops(per_photograph: int = 8) -> Iterator[Image.Image]:
    """The photographs, and square crops of each at fixed places: more images of the same honest kind."""
    places = np.random.default_rng(0)
    for _, photo in photographs():
        yield photo
        for _ in range(per_photograph - 1):
            side = int(min(photo.size) * places.uniform(0.4, 0.9))
            left, top = (int(places.integers(0, length - side + 1)) for length in photo.size)
            yield photo.crop((left, top, left + side, top + side))


def label_set(dim: int) -> np.ndarray:
    """`[LABELS, dim]` rows of norm 1 in seeded directions, as synthetic text embeddings are."""
    rows = np.random.default_rng(0).standard_normal((LABELS, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def agreement(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Share of embeddings whose nearest label is that of the expected embedding; one with NaN agrees with none."""
    top = [int(np.argmax(labels @ e.ravel())) for e in expected]
    found = [int(np.argmax(labels @ a.ravel())) if np.isfinite(a).all() else -1 for a in actual]
    return float(np.mean([a == b for a, b in zip(top, found, strict=True)]))


@torch.no_grad()
def full_depth(work: Workspace, log: Callable[[str], None]) -> dict[str, Any]:
    """Each of `FILES` against PyTorch: on the CPU over all crops, on the delegate over `ON_GPU` photographs."""
    images = [preprocess(crop, work.variant.image_size) for crop in crops()]
    labels = label_set(work.variant.embedding_dim)
    expected = [work.reference(torch.from_numpy(image)).numpy() for image in images]
    margins = [float(np.diff(np.sort(labels @ e.ravel())[-2:])[0]) for e in expected]
    inputs = [{"image": image} for image in work.images[:ON_GPU]]
    photos = [work.reference(torch.from_numpy(arrays["image"])).numpy() for arrays in inputs]
    adapter = probe()
    rows: dict[str, Any] = {}

    def judged(theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> dict[str, float]:
        return {**compare(theirs, ours).as_dict(), "top1": agreement(theirs, ours, labels)}

    for name in FILES:
        log(f"{name} on the CPU, {len(images)} images")
        model = open_model(work.file(name))
        rows[name] = {"cpu": judged(expected, [model.run({"image": image})["embedding"] for image in images])}
        for compute in (COMPUTES if name == "ours-fp16" else COMPUTES[:1]) if adapter else ():
            log(f"{name} on ML Drift in {compute}, {ON_GPU} photographs")
            run = run_on_gpu(work.file(name), inputs, compute)
            row: dict[str, Any] = {"verdict": run.verdict.value, "ops": run.ops, "ops_on_gpu": run.ops_on_gpu}
            if run.verdict is Verdict.RAN:
                row |= judged(photos, [arrays["embedding"] for arrays in run.outputs])
                if adapter and not adapter.software:  # a software driver's time says nothing about a GPU
                    row["ms"] = 1000 * spread(run.run_s[1:] or run.run_s).median
            rows[name][f"gpu {compute}"] = row
    return {
        "rows": rows,
        "images": len(images),
        "on_gpu": ON_GPU,
        "labels": LABELS,
        "margin": vars(spread(margins)),
        "adapter": vars(adapter) if adapter else None,
    }


def sweep(size: str, depth: int, amplitudes: Sequence[float], log: Callable[[str], None]) -> dict[str, Any]:
    """The forms of LayerNorm on the delegate, and our files on the CPU, at each amplitude."""
    whole = find(size)
    variant = replace(whole, depth=depth, artefact=f"{whole.artefact}_{depth}_blocks")

    def build(amplitude: float) -> Any:
        return build_tower(variant, synthetic_state_dict(variant, amplitude=amplitude))

    images = Workspace(variant).images
    tensors = [torch.from_numpy(image) for image in images]
    forms = ablate(build, write_fp16, tensors, amplitudes, choose_rows(tuple(FORMS)), compared=1, log=log)
    on_cpu: dict[str, list[Any]] = {name: [] for name in FILES}
    for amplitude in amplitudes:
        work = Workspace(variant, FOLDER / f"sweep_{amplitude:g}", amplitude)
        with torch.no_grad():
            expected = [work.reference(tensor).numpy() for tensor in tensors]
        for name in FILES:
            log(f"amplitude {amplitude:g}: {name} on the CPU")
            model = open_model(work.file(name))
            outputs = [model.run({"image": image})["embedding"] for image in images]
            on_cpu[name].append({"amplitude": amplitude, **compare(expected, outputs).as_dict()})
    return {
        "size": size,
        "depth": depth,
        "of": whole.depth,
        "amplitudes": list(amplitudes),
        "forms": [result.as_dict() for result in forms],
        "cpu": on_cpu,
    }


def accuracy(contents: results.Contents) -> Section:
    """One row for each file and place it ran."""
    full = contents["accuracy"]["full"]
    rows = []
    for name, on in full["rows"].items():
        for where, row in on.items():
            place = "LiteRT CPU" if where == "cpu" else f"ML Drift {where.removeprefix('gpu ')}"
            if "correlation" not in row:
                rows.append([GRAPHS[name], place, row["verdict"], "", "", ""])
                continue
            if "ms" in row:  # never of a software driver
                place += f", {row['ms']:.1f} ms"
            figures = [nines(row["correlation"]), f"{row['norm_error'] or 0:.0e}", f"{row['max_abs_diff'] or 0:.1e}"]
            images = full["images"] if where == "cpu" else full["on_gpu"]
            rows.append([GRAPHS[name], place, *figures, f"{round(row['top1'] * images)} of {images}"])
    adapter = full["adapter"]
    where = f"ML Drift on {adapter['name']}" if adapter else "no GPU adapter was found"
    note = (
        f"{contents['accuracy']['size']}, {full['images']} images on the CPU, {full['on_gpu']} photographs on the GPU; "
        f"{where}{', a software driver' * bool(adapter and adapter['software'])}. Top label of {full['labels']}: the "
        f"first leads the second by {full['margin']['median']:.4f} in cosine (median)."
    )
    return Section(["file", "on", "correlation", "norm error", "max abs diff", "same top label"], rows, [note])


def amplitude(contents: results.Contents) -> Section:
    """Correlation over the amplitude: one row a form of LayerNorm, then one a file of ours."""
    swept = contents["accuracy"]["sweep"]
    amplitudes = swept["amplitudes"]

    def over(points: Sequence[Mapping[str, Any]]) -> list[str]:
        at = {point["amplitude"]: nines(point["correlation"]) for point in points if "correlation" in point}
        return [at.get(amplitude, "") for amplitude in amplitudes]

    forms = {form["name"]: form["points"] for form in swept["forms"]}
    rows = [[f"{label}; ML Drift fp16", *over(forms[name])] for name, (label, *_) in FORMS.items() if forms.get(name)]
    rows += [[f"{GRAPHS[name]}; LiteRT CPU", *over(points)] for name, points in swept["cpu"].items()]
    headings = [f"{swept['size']}, {swept['depth']} of {swept['of']} blocks", *(f"{a:g}" for a in amplitudes)]
    return Section(headings, rows)


SECTIONS = {"accuracy": accuracy, "amplitude": amplitude}


def plot(contents: results.Contents, path: Path) -> None:
    """Correlation over amplitude, each form of LayerNorm a line; NaN as a cross at 0."""
    swept = contents["accuracy"]["sweep"]
    title = f"{swept['size']}, {swept['depth']} blocks, ML Drift in fp16 (a cross: NaN)"
    figure = new_figure(7.5, 4, title)
    axes = figure.subplots()
    places = {amplitude: i for i, amplitude in enumerate(swept["amplitudes"])}
    for form in swept["forms"]:
        label, colour, marker = FORMS[form["name"]]
        points = [p for p in form["points"] if "correlation" in p]
        good = [p for p in points if p["correlation"] is not None]
        lost = [places[p["amplitude"]] for p in points if p["correlation"] is None]
        size = 6 + 4 * list(FORMS)[::-1].index(form["name"])  # so that lines on top of one another can be told apart
        xs, ys = [places[p["amplitude"]] for p in good], [p["correlation"] for p in good]
        axes.plot(xs, ys, marker=marker, markersize=size, color=colour, linestyle=":", label=label)
        axes.plot(lost, [0.0] * len(lost), "x", color=colour, markersize=size + 3, markeredgewidth=2, clip_on=False)
    axes.set_xticks(list(places.values()), [f"{amplitude:g}" for amplitude in places])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("largest activation in the residual stream")
    axes.set_ylabel("correlation with the CPU")
    plain_axes(axes)
    if swept["forms"]:
        axes.legend(loc="lower left", fontsize=9, frameon=False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16", help="at full depth")
    parser.add_argument("--sweep-size", default="B16")
    parser.add_argument("--sweep-depth", type=int, default=2)
    parser.add_argument("--amplitudes", type=float, nargs="+", default=AMPLITUDES)
    options = parser.parse_args()
    with progress() as log:
        full = full_depth(Workspace(find(options.size)), log)
        swept = sweep(options.sweep_size, options.sweep_depth, options.amplitudes, log)
    results.write("accuracy", {"size": options.size, "full": full, "sweep": swept})


if __name__ == "__main__":
    main()
