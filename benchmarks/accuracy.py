"""How right each file is: on photographs at full depth, and over the amplitude of the residual stream.

    python -m benchmarks.accuracy --size B16 --sweep-depth 2

Full depth: fp32, fp16 and int8 on LiteRT's CPU and on ML Drift, against PyTorch, with the share of photographs whose
top label stays the same. The sweep takes the first blocks alone and holds three forms of LayerNorm against one another
on ML Drift in fp16 (`validate/ablation.py`), and our three files on the CPU.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import results
from benchmarks.conversion import figures
from benchmarks.workspace import FOLDER, Workspace
from pecore.console import working
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tflite_files import write_fp16
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.runtime import open_model
from pecore.timing import spread
from pecore.validate.ablation import ablate, choose_rows
from pecore.validate.gpu import Verdict, probe, run_on_gpu
from pecore.validate.photographs import photographs
from pecore.variants import find

FILES = ("ours-fp32", "ours-fp16", "ours-int8")
FORMS = ("none", "norm-published", "norm")
"""Rows of the ablation: ours, the published form, a plain LayerNorm."""
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
def full_depth(work: Workspace, stage: Callable[[str], None]) -> dict[str, Any]:
    """Each of `FILES` against PyTorch: on the CPU over all crops, on the delegate over `ON_GPU` photographs."""
    images = [preprocess(crop, work.variant.image_size) for crop in crops()]
    labels = label_set(work.variant.embedding_dim)
    expected = [work.reference(torch.from_numpy(image)).numpy() for image in images]
    margins = [float(np.diff(np.sort(labels @ e.ravel())[-2:])[0]) for e in expected]
    adapter = probe()
    rows: dict[str, Any] = {}
    for name in FILES:
        stage(f"{name} on the CPU, {len(images)} images")
        model = open_model(work.file(name))
        outputs = [model.run({"image": image})["embedding"] for image in images]
        rows[name] = {"cpu": {**figures(expected, outputs), "top1": agreement(expected, outputs, labels)}}
        if adapter is None:
            continue
        inputs = [{"image": image} for image in work.images[:ON_GPU]]
        theirs = [work.reference(torch.from_numpy(arrays["image"])).numpy() for arrays in inputs]
        for precision in ("fp16", "fp32") if name == "ours-fp16" else ("fp16",):
            stage(f"{name} on ML Drift in {precision}, {ON_GPU} photographs")
            run = run_on_gpu(work.file(name), inputs, precision)
            row: dict[str, Any] = {"verdict": run.verdict.value, "ops": run.ops, "ops_on_gpu": run.ops_on_gpu}
            if run.verdict is Verdict.RAN:
                embeddings = [arrays["embedding"] for arrays in run.outputs]
                row |= figures(theirs, embeddings) | {"top1": agreement(theirs, embeddings, labels)}
                if not adapter.software:  # a software driver's time says nothing about a GPU
                    row["ms"] = 1000 * spread(run.run_s[1:] or run.run_s).median
            rows[name][f"gpu {precision}"] = row
    return {
        "rows": rows,
        "images": len(images),
        "on_gpu": ON_GPU,
        "labels": LABELS,
        "margin": vars(spread(margins)),
        "adapter": vars(adapter) if adapter else None,
    }


def sweep(size: str, depth: int, amplitudes: Sequence[float], stage: Callable[[str], None]) -> dict[str, Any]:
    """The forms of LayerNorm on the delegate, and our files on the CPU, at each amplitude."""
    whole = find(size)
    variant = replace(whole, depth=depth, artefact=f"{whole.artefact}_{depth}_blocks")

    def build(amplitude: float) -> Any:
        return build_tower(variant, synthetic_state_dict(variant, amplitude=amplitude))

    images = Workspace(variant).images
    tensors = [torch.from_numpy(image) for image in images]
    forms = ablate(build, write_fp16, tensors, amplitudes, choose_rows(FORMS), compared=1, stage=stage)
    on_cpu: dict[str, list[Any]] = {name: [] for name in FILES}
    for amplitude in amplitudes:
        work = Workspace(variant, FOLDER / f"sweep_{amplitude:g}", amplitude)
        with torch.no_grad():
            expected = [work.reference(tensor).numpy() for tensor in tensors]
        for name in FILES:
            stage(f"amplitude {amplitude:g}: {name} on the CPU")
            model = open_model(work.file(name))
            outputs = [model.run({"image": image})["embedding"] for image in images]
            on_cpu[name].append({"amplitude": amplitude, **figures(expected, outputs)})
    return {
        "size": size,
        "depth": depth,
        "of": whole.depth,
        "amplitudes": list(amplitudes),
        "forms": [result.as_dict() for result in forms],
        "cpu": on_cpu,
    }


def run(size: str, sweep_size: str, depth: int, amplitudes: Sequence[float]) -> None:
    work = Workspace(find(size))
    with working() as stage:
        content = {
            "size": size,
            "full": full_depth(work, stage),
            "sweep": sweep(sweep_size, depth, amplitudes, stage),
        }
    results.write("accuracy", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16", help="at full depth")
    parser.add_argument("--sweep-size", default="B16")
    parser.add_argument("--sweep-depth", type=int, default=2)
    parser.add_argument("--amplitudes", type=float, nargs="+", default=AMPLITUDES)
    options = parser.parse_args()
    run(options.size, options.sweep_size, options.sweep_depth, options.amplitudes)


if __name__ == "__main__":
    main()
