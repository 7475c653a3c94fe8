"""Checkpoint in, judged bundle out: the one path that `convert_pecore.py`, `pecore convert` and Python callers take."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from convert import bundle, parts
from convert.card import model_card
from convert.checkpoint import Weights
from convert.export import export_tflite
from convert.fingerprint import fingerprint
from convert.quantize import PRECISIONS, quantize
from convert.variants import Variant, build_tower
from pecore.errors import GateError, InputError
from pecore.preprocess import preprocess
from rewrites.tower import INPUT_LAYOUTS, INPUT_RANGES, Scales, rewrite
from validate import device, exactness, gates, headroom, report
from validate.gates import Check
from validate.gpu import NO_ADAPTER_REMEDY, probe
from validate.photographs import photographs
from validate.plots import plot_headroom
from validate.reference import REFERENCE, save_reference
from validate.rules import runtimes

SIGNATURE = "serving_default"
HEADROOM_PLOT = "headroom.png"
PREPROCESSING = {
    "summary": "RGB, squashed to the input's square (antialiased bilinear, as Pillow; no crop), then to the range",
    "resize": "squash",
    "filter": "bilinear, antialiased",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class Options:
    """What a conversion is to make.

    precisions: of the files to keep. gpu: `auto` runs the GPU gate where there is an adapter, `require` insists, `skip`
    leaves it out.
    gpu_images: how many of the photographs go through the GPU gate (a software driver takes half a minute for each).
    runtime: the LiteRT version whose rules apply. images: a folder of photographs; scikit-image's own where None.
    """

    precisions: Sequence[str] = ("fp16",)
    input_layout: str = "nchw"
    input_range: str = "-1..1"
    gpu: str = "auto"
    gpu_images: int = 2
    runtime: str = runtimes()[-1]
    images: Path | None = None

    def __post_init__(self) -> None:
        for name, values, known in (
            ("precision", self.precisions, PRECISIONS),
            ("input layout", [self.input_layout], INPUT_LAYOUTS),
            ("input range", [self.input_range], tuple(INPUT_RANGES)),
            ("gpu choice", [self.gpu], ("auto", "require", "skip")),
        ):
            unknown = [v for v in values if v not in known]
            if unknown or not values:
                raise InputError(
                    f"unknown {name} {', '.join(unknown) or 'list: it is empty'}; choose from {', '.join(known)}"
                )


@dataclass(frozen=True)
class Result:
    """What a conversion made: the folder it is in, whether every gate passed, and the contents of its two JSON
    files."""

    folder: Path
    passed: bool
    checks: Sequence[Check]
    manifest: dict[str, Any]
    report: dict[str, Any]


def convert(
    variant: Variant,
    weights: Weights,
    target: Path,
    options: Options = Options(),
    stage: Callable[[str], None] = print,
) -> Result:
    """Convert a checkpoint and write its bundle to `target`, or, when a gate fails, to `<target>.rejected`.

    Args:
        stage: told, in a few words, each time the work enters a new stage.

    Raises:
        InputError: what was given can't be used; nothing is left behind.
        GateError: `gpu` is `require` and there is no adapter; nothing is left behind either.
    """
    with bundle.staging(target) as staged:
        if options.gpu == "require" and probe() is None:
            raise GateError(f"--require-gpu, but there is no GPU adapter: {NO_ADAPTER_REMEDY}")
        shots = list(photographs(options.images))
        images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in shots]
        stage(f"measuring headroom on {len(shots)} photographs")
        model = build_tower(variant, weights.state_dict)
        scales, reductions = headroom.fit_scales(model, images)
        checks = [gates.headroom_gate(reductions)]
        title = f"{variant.artefact}, {'SYNTHETIC weights: ' if weights.synthetic else ''}{weights.source}"
        plot_headroom(reductions, scales, staged.folder / HEADROOM_PLOT, f"{title}; {len(shots)} photographs")
        stage("computing the reference in PyTorch")
        with torch.no_grad():
            reference = [{"embedding": F.normalize(model(image), dim=-1).numpy()} for image in images]
        layout, value_range = options.input_layout, options.input_range
        inputs = [
            {"image": preprocess(image, variant.image_size, layout=layout, value_range=value_range)}  # type: ignore[arg-type]
            for _, image in shots
        ]
        files = {p: staged.folder / f"{variant.artefact}_{p}.tflite" for p in dict.fromkeys(options.precisions)}
        for keep_norm_weights in sorted({p == "int8" for p in files}):
            form = "tower with norm weights kept" if keep_norm_weights else "tower"
            stage(f"comparing the {form} with timm in float64")
            difference = exactness.max_difference(model, scales, images[0], keep_norm_weights)
            checks.append(gates.exact_gate(difference, form))
            made = {p: path for p, path in files.items() if (p == "int8") == keep_norm_weights}
            tower = rewrite(
                model,
                scales,
                input_layout=layout,
                input_range=value_range,
                keep_norm_weights=keep_norm_weights,
            )
            _export(tower, torch.from_numpy(inputs[0]["image"]), made, staged.folder, stage)
        del model, tower

        for precision, path in files.items():
            checks.append(gates.graph_gate(path, options.runtime))
            stage(f"running {path.name} on the CPU")
            check, outputs = gates.cpu_gate(path, precision, inputs, reference)
            some = slice(options.gpu_images)
            checks += [check, *gates.gpu_gates(path, precision, inputs[some], outputs[some], options.gpu, stage)]
        save_reference(staged.folder / REFERENCE, inputs[: options.gpu_images], reference[: options.gpu_images])
        names = [name for name, _ in shots]
        return _finish(variant, weights, options, scales, staged, files, checks, names, stage)


def _export(
    tower: torch.nn.Module, image: torch.Tensor, files: dict[str, Path], folder: Path, stage: Callable[[str], None]
) -> None:
    """Write `tower` in each of the precisions asked for."""
    source = files.get("fp32", folder / "source.tflite")
    stage("converting to float32 .tflite")
    export_tflite(tower, {"image": image}, source)
    for precision in files:
        if precision != "fp32":
            stage(f"quantizing to {precision}")
            quantize(source, files[precision], precision)
    if "fp32" not in files:
        source.unlink()


def about_weights(weights: Weights) -> dict[str, Any]:
    """Where the weights are from, as the manifest keeps it."""
    kept = {name: getattr(weights, name) for name in ("kind", "source", "sha256", "synthetic", "seed", "amplitude")}
    file = weights.file.name if weights.file else None
    return kept | {"file": file, "fingerprint": fingerprint(weights.state_dict)}


def _finish(
    variant: Variant,
    weights: Weights,
    options: Options,
    scales: Scales,
    staged: bundle.Staging,
    files: dict[str, Path],
    checks: list[Check],
    images: list[str],
    stage: Callable[[str], None],
) -> Result:
    ops = {c.subject: c.figures["ops"] for c in checks if c.gate == "graph"}
    side = variant.image_size
    about = {"name": variant.artefact, "weights": about_weights(weights)}
    manifest = {
        "format": 1,
        **about,
        "variant": asdict(variant),
        "files": {
            path.name: parts.file_entry(path, precision=precision, ops=ops[path.name])
            for precision, path in files.items()
        },
        "signature": SIGNATURE,
        "input": {
            "name": "image",
            "dtype": "float32",
            "shape": [1, 3, side, side] if options.input_layout == "nchw" else [1, side, side, 3],
            "layout": options.input_layout,
            "range": options.input_range,
        },
        "output": {
            "name": "embedding",
            "dtype": "float32",
            "shape": [1, variant.embedding_dim],
            "meaning": "the image's embedding, L2-normalised",
        },
        "preprocessing": PREPROCESSING,
        "logit_scale": weights.logit_scale,
        "prompt_templates": [],
        "scales": asdict(scales),
        "self_test": {
            "reference": {"name": REFERENCE, **parts.file_entry(staged.folder / REFERENCE)},
            "thresholds": {path.name: device.thresholds(precision) for precision, path in files.items()},
        },
        "versions": report.versions(),
        "gates": [
            {"gate": c.gate, "subject": c.subject, "backend": c.backend, "outcome": c.outcome, "detail": c.detail}
            for c in checks
        ],
    }
    left = parts.carry_over(staged.target, manifest, staged.folder)
    if left:
        stage(f"leaving out the {' and the '.join(left)} in {staged.target.name}: made from other weights, or damaged")
    content = report.as_json(checks, **about, images=images, runtime_rules=options.runtime)
    bundle.write_json(staged.folder / bundle.MANIFEST, manifest)
    bundle.write_json(staged.folder / bundle.REPORT, content)
    bundle.write_text(staged.folder / bundle.MODEL_CARD, model_card(manifest, content))
    passed = not report.failed(checks)
    folder = staged.keep() if passed else staged.reject()
    return Result(folder, passed, checks, manifest, content)
