"""Checkpoint in, judged bundle out: the one path that `convert_pecore.py`, `pecore convert` and Python callers take."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convert import bundle, parts
from convert.card import model_card
from convert.checkpoint import Weights
from convert.fingerprint import fingerprint
from convert.forms import FORMS, by_form, write_files
from convert.variants import Variant, build_tower, find_timm
from pecore.errors import GateError, InputError
from pecore.preprocess import preprocess
from pecore.room import check_room
from rewrites.output import OUTPUTS, Output
from rewrites.tower import INPUT_LAYOUTS, INPUT_RANGES, Scales, rewrite
from validate import device, exactness, gates, headroom, report
from validate.gates import Check
from validate.gpu import NO_ADAPTER_REMEDY, probe
from validate.photographs import photographs
from validate.plots import plot_headroom
from validate.reference import REFERENCE, save_reference
from validate.rules import known_runtime, runtimes

SIGNATURE = "serving_default"
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

    precisions: of the files to keep. output, layer: as `rewrites.Output` takes them; `Variant.output` where None, and
    features where only a layer is given. batch: images that the graph takes at once. gpu: `auto` runs the GPU gate
    where there is an adapter, `require` insists, `skip` leaves it out.
    gpu_images: how many of the photographs go through the GPU gate (a software driver takes half a minute for each).
    runtime: the LiteRT version whose rules apply. images: a folder of photographs; scikit-image's own where None.
    """

    precisions: Sequence[str] = ("fp16",)
    output: str | None = None
    layer: int | None = None
    batch: int = 1
    input_layout: str = "nchw"
    input_range: str = "-1..1"
    gpu: str = "auto"
    gpu_images: int = 2
    runtime: str = runtimes()[-1]
    images: Path | None = None

    def __post_init__(self) -> None:
        for name, values, known in (
            ("precision", self.precisions, tuple(FORMS)),
            ("output", [self.output or OUTPUTS[0]], OUTPUTS),
            ("input layout", [self.input_layout], INPUT_LAYOUTS),
            ("input range", [self.input_range], tuple(INPUT_RANGES)),
            ("gpu choice", [self.gpu], ("auto", "require", "skip")),
        ):
            unknown = [v for v in values if v not in known]
            if unknown or not values:
                raise InputError(
                    f"unknown {name} {', '.join(unknown) or 'list: it is empty'}; choose from {', '.join(known)}"
                )
        known_runtime(self.runtime)
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} holds no image: give --batch 1 or more")


@dataclass(frozen=True)
class Result:
    """What a conversion made: the folder it is in, whether every gate passed, and the contents of its two JSON
    files."""

    folder: Path
    passed: bool
    checks: Sequence[Check]
    manifest: dict[str, Any]
    report: dict[str, Any]


def chosen_output(variant: Variant, options: Options) -> Output:
    """The output that `options` ask of `variant`.

    Raises:
        InputError: it has none of that kind, or no such layer.
    """
    by_default = variant.output if options.layer is None else "features"
    kind = options.output or by_default
    if not variant.embedding_dim and kind != "features":
        raise InputError(f"{variant.size} has no pooling and no head to give {kind}: choose --output features")
    try:
        output = Output(kind, options.layer)
        output.block(variant.depth)
    except ValueError as error:
        raise InputError(f"{error} (--output, --layer)") from error
    return output


def bundle_name(variant: Variant, options: Options) -> str:
    """Stem of the files, and the bundle's folder: the variant's artefact, and what is not as usual."""
    output = chosen_output(variant, options)
    layered = output.has_features and not output.final(variant.depth)
    usual = find_timm(variant.timm_name).output
    parts = [
        f"_{output.kind}" if output.kind != usual else "",
        f"_layer{output.block(variant.depth)}" if layered else "",
        f"_batch{options.batch}" if options.batch > 1 else "",
    ]
    return variant.artefact + "".join(parts)


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
    output, name = chosen_output(variant, options), bundle_name(variant, options)
    check_room(variant.parameters, options.precisions, target)
    with bundle.staging(target) as staged:
        if options.gpu == "require" and probe() is None:
            raise GateError(f"--require-gpu, but there is no GPU adapter: {NO_ADAPTER_REMEDY}")
        shots = list(photographs(options.images))
        images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in shots]
        stage(f"measuring headroom on {len(shots)} photographs")
        model = build_tower(variant, weights.state_dict)
        scales, reductions = headroom.fit_scales(model, images, output)
        checks = [gates.headroom_gate(reductions)]
        title = f"{name}, {'SYNTHETIC weights: ' if weights.synthetic else ''}{weights.source}"
        plot_headroom(reductions, scales, staged.folder / bundle.HEADROOM_PLOT, f"{title}; {len(shots)} photographs")
        stage("computing the reference in PyTorch")
        layout, value_range = options.input_layout, options.input_range
        with torch.no_grad():
            found = [exactness.timm_outputs(model, image, output, layout == "nhwc") for image in images]
        reference = _batches([{name: t.numpy() for name, t in sample.items()} for sample in found], options.batch)
        inputs = _batches(
            [
                {"image": preprocess(image, variant.image_size, layout=layout, value_range=value_range)}  # type: ignore[arg-type]
                for _, image in shots
            ],
            options.batch,
        )
        files = {p: staged.folder / f"{name}_{p}.tflite" for p in dict.fromkeys(options.precisions)}
        for form, made in by_form(files):
            stage(f"comparing the {form.name} with timm in float64")
            difference = exactness.max_difference(model, scales, images[0], output, **form.options)
            checks.append(gates.exact_gate(difference, form.name))
            make = partial(
                rewrite, model, scales, output=output, input_layout=layout, input_range=value_range, **form.options
            )
            write_files(make, {"image": torch.from_numpy(inputs[0]["image"])}, made, output.names, stage)
            del make
        del model

        for precision, path in files.items():
            checks.append(gates.graph_gate(path, options.runtime))
            stage(f"running {path.name} on the CPU")
            check, outputs = gates.cpu_gate(path, precision, inputs, reference)
            some = slice(options.gpu_images)
            checks += [check, *gates.gpu_gates(path, precision, inputs[some], outputs[some], options.gpu, stage)]
        save_reference(staged.folder / REFERENCE, inputs[: options.gpu_images], reference[: options.gpu_images])
        about = {
            "input": {
                "name": "image",
                "dtype": "float32",
                "shape": list(inputs[0]["image"].shape),
                "layout": layout,
                "range": value_range,
            },
            "outputs": [_about_output(output, variant, n, reference[0][n]) for n in output.names],
        }
        photos = [shot for shot, _ in shots]
        return _finish(variant, weights, options, output, scales, staged, files, checks, about, photos, stage)


def _batches(samples: list[dict[str, np.ndarray]], size: int) -> list[dict[str, np.ndarray]]:
    """Samples in batches; the last is filled up from the front."""
    if size == 1:
        return samples
    rows = [[samples[(start + i) % len(samples)] for i in range(size)] for start in range(0, len(samples), size)]
    return [{name: np.concatenate([row[name] for row in batch]) for name in batch[0]} for batch in rows]


def _about_output(output: Output, variant: Variant, name: str, array: np.ndarray) -> dict[str, Any]:
    if name == "features":
        block, last = output.block(variant.depth), output.final(variant.depth)
        normed = ", through the final norm" if last and variant.final_norm else ""
        meaning = f"the patch tokens behind block {block} of 0 to {variant.depth - 1}{normed}, as a map"
    else:
        meaning = "the image's embedding, L2-normalised" if name == "embedding" else "the head's output, as it is"
    return {"name": name, "dtype": "float32", "shape": list(array.shape), "meaning": meaning}


def about_weights(weights: Weights) -> dict[str, Any]:
    """Where the weights are from, as the manifest keeps it."""
    kept = {name: getattr(weights, name) for name in ("kind", "source", "sha256", "synthetic", "seed", "amplitude")}
    file = weights.file.name if weights.file else None
    return kept | {"file": file, "fingerprint": fingerprint(weights.state_dict)}


def _finish(
    variant: Variant,
    weights: Weights,
    options: Options,
    output: Output,
    scales: Scales,
    staged: bundle.Staging,
    files: dict[str, Path],
    checks: list[Check],
    tensors: dict[str, Any],
    images: list[str],
    stage: Callable[[str], None],
) -> Result:
    ops = {c.subject: c.figures["ops"] for c in checks if c.gate == "graph"}
    about = {"name": bundle_name(variant, options), "weights": about_weights(weights)}
    unit = output.names[0] == "embedding"
    manifest = {
        "format": 1,
        **about,
        "variant": asdict(variant),
        "files": {
            path.name: parts.file_entry(path, precision=precision, ops=ops[path.name])
            for precision, path in files.items()
        },
        "signature": SIGNATURE,
        "input": tensors["input"],
        "output": tensors["outputs"][0],
        "outputs": tensors["outputs"],
        "tower_output": asdict(output),
        "preprocessing": PREPROCESSING,
        "logit_scale": weights.logit_scale if unit else None,
        "prompt_templates": [],
        "scales": asdict(scales),
        "self_test": {
            "reference": {"name": REFERENCE, **parts.file_entry(staged.folder / REFERENCE)},
            "thresholds": {path.name: device.thresholds(precision, unit) for precision, path in files.items()},
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
