"""Checkpoint in, judged bundle out: what `convert_pecore.py`, `pecore convert` and Python callers run.

`convert` and `convert_text` take the same steps for the two towers: measure headroom and choose scales, compute the
reference, then for each form of the tower the exact gate and its files, then for each file the graph, CPU and GPU
gates.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pecore.bundle import (
    HEADROOM_PLOT,
    MANIFEST,
    MODEL_CARD,
    REFERENCE,
    REPORT,
    TEXT_REFERENCE,
    TEXT_REPORT,
    TOKENIZER_FILE,
    FileEntry,
    Manifest,
    TensorEntry,
    TextSection,
    VisionSection,
    file_entry,
)
from pecore.convert.checkpoint import Weights
from pecore.convert.resources import check_resources
from pecore.convert.staging import Staging, carry_over, manifest_to_extend, staging
from pecore.convert.text_tower import TextConfig, TextWeights, build_text_tower, text_config, token_ids
from pecore.convert.tflite_files import write_files
from pecore.convert.timm_tower import preprocessing
from pecore.convert.tokenizer_file import write_tokenizer
from pecore.convert.towers import build_tower
from pecore.errors import GateError, InputError
from pecore.files import write_json, write_text
from pecore.image import Resize, preprocess
from pecore.precision import PRECISIONS, by_tower, find_precisions
from pecore.rewrites.output import OUTPUTS, Output
from pecore.rewrites.text import rewrite_text
from pecore.rewrites.tower import INPUT_LAYOUTS, INPUT_RANGES, PixelRange, Scales, UnsupportedTowerError, rewrite
from pecore.tokenizer import ClipTokenizer
from pecore.validate import device, exactness, gates, headroom, npu, report, text_exactness
from pecore.validate.checks import Check, advisory, failed
from pecore.validate.gpu import NO_ADAPTER_REMEDY, probe
from pecore.validate.model_card import model_card
from pecore.validate.npu import NpuOptions
from pecore.validate.npu_gate import npu_gates
from pecore.validate.photographs import photographs, tower_inputs
from pecore.validate.plots import plot_headroom
from pecore.validate.reference import save_reference
from pecore.validate.rules import known_runtime, runtimes
from pecore.variants import Variant, find_timm

Log = Callable[[str], None]
"""Told, in a few words, each time the work enters a new stage."""

Arrays = dict[str, np.ndarray]

CALIBRATION_LIMIT = 64
"""The most photographs of `VisionOptions.calibrate` that are run: their spread counts, and each takes seconds."""

PROMPTS = (
    "a photo of a cat.",
    "",
    "a bad photo of the large golden retriever.",
    "itap of a red double-decker bus, parked on a wet street in London at night, seen from across the river Thames",
    "Ünïcode: 日本の猫 🐈, naïve café",
    "a person spelling <end_of_text> out loud",
    "3 oranges, 12 apples & 1/2 lemon (on a table)",
    " ".join(["over"] * 60) + " the end",
)
"""What a text tower's gates run: short, empty, exactly cut, another script, an end-of-text token in the middle."""


@dataclass(frozen=True)
class GateOptions:
    """Which files to make and how to judge them.

    precisions: of the files to keep. gpu: `auto` runs the GPU gate where there is an adapter, `require` insists, `skip`
    leaves it out; a text tower is made for the CPU, so its GPU gate runs with `require` alone. gpu_samples: how many
    samples go through the GPU gate (a software driver takes half a minute for each photograph). runtime: the LiteRT
    version whose rules apply. npu: what to ask of Qualcomm's compiler, if anything.
    """

    precisions: Sequence[str] = ("fp16",)
    gpu: str = "auto"
    gpu_samples: int = 2
    runtime: str = runtimes()[-1]
    npu: NpuOptions | None = None

    def __post_init__(self) -> None:
        find_precisions(self.precisions)
        _known("gpu choice", self.gpu, ("auto", "require", "skip"))
        known_runtime(self.runtime)


@dataclass(frozen=True)
class VisionOptions(GateOptions):
    """What to make of a vision tower.

    output, layer: as `rewrites.Output` takes them; `Variant.output` where None, and features where only a layer is
    given. batch: images that the graph takes at once. images: a folder of photographs; scikit-image's own where None.
    calibrate: a folder of those that integer activations take their ranges from; `images` where None.
    """

    output: str | None = None
    layer: int | None = None
    batch: int = 1
    input_layout: str = "nchw"
    input_range: str = "-1..1"
    images: Path | None = None
    calibrate: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibrate and not any(row.integer for row in find_precisions(self.precisions)):
            raise InputError("--calibrate is for precisions with integer activations: add --precision a16w8")
        _known("output", self.output or OUTPUTS[0], OUTPUTS)
        _known("input layout", self.input_layout, INPUT_LAYOUTS)
        _known("input range", self.input_range, tuple(INPUT_RANGES))
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} holds no image: give --batch 1 or more")


def _known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class Conversion:
    """What a conversion made: the folder it is in, whether every gate passed, the bundle's manifest, and the content of
    the report."""

    folder: Path
    passed: bool
    checks: Sequence[Check]
    manifest: Manifest
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A tower on its way into files.

    original: whose tower the rewrite is held against, `timm` or `open_clip`. scales: chosen for it. differ: scales,
    norm weights kept -> largest |difference| to the original in float64. rewrite: the same two -> the rewritten tower.
    inputs: examples by name. outputs: names, in order. samples: inputs that integer activations take their ranges from.
    """

    original: str
    scales: Scales
    differ: Callable[[Scales, bool], float]
    rewrite: Callable[[Scales, bool], nn.Module]
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    samples: Sequence[Arrays] = ()

    def write(self, files: Mapping[str, Path], log: Log, prefix: str = "") -> list[Check]:
        """Write `files` (precision -> path); the exact gate of each form of the tower."""
        checks = []
        for row, names in by_tower(files):
            keep, subject = row.keep_norm_weights, prefix + row.tower
            log(f"comparing the {subject} with {self.original} in float64")
            checks.append(exactness.exact_gate(self.differ(self.scales, keep), subject, self.original))
            some = {name: files[name] for name in names}
            make = partial(self.rewrite, self.scales, keep)
            write_files(make, self.inputs, some, self.outputs, log, self.samples)
        return checks


def run_gates(
    files: Mapping[str, Path],
    inputs: Sequence[Arrays],
    reference: Sequence[Arrays],
    options: GateOptions,
    log: Log,
    cpu_alone: bool = False,
) -> list[Check]:
    """Gates 2 to 4 and 6 on each file; `cpu_alone` for a tower that no GPU is asked to take."""
    checks: list[Check] = []
    some = slice(options.gpu_samples)
    gpu = "skip" if cpu_alone else options.gpu
    for precision, path in files.items():
        integer = PRECISIONS[precision].integer
        graph = gates.graph_gate(path, options.runtime)
        checks.append(advisory(graph, "NPUs" if integer else "the CPU") if integer or cpu_alone else graph)
        log(f"running {path.name} on the CPU")
        check, outputs = gates.cpu_gate(path, precision, inputs, reference)
        checks += [check, *gates.gpu_gates(path, precision, inputs[some], outputs[some], gpu, log)]
        checks += npu_gates(path, precision, inputs[some], reference[some], options.npu, log)
    return checks


def convert(
    variant: Variant,
    weights: Weights,
    target: Path,
    options: VisionOptions = VisionOptions(),
    log: Log = print,
) -> Conversion:
    """Convert a vision tower and write its bundle to `target`, or, when a gate fails, to `<target>.rejected`.

    Raises:
        InputError: what was given can't be used; nothing is left behind.
        GateError: there is no GPU adapter, or no NPU compiler, and one is required; nothing is left behind either.
    """
    output, name = chosen_output(variant, options), bundle_name(variant, options)
    check_resources(variant.parameters, options.precisions, target)
    with staging(target) as staged:
        _require_accelerators(options)
        shots = list(photographs(options.images))
        seen = photographs(options.calibrate, CALIBRATION_LIMIT) if options.calibrate else ()
        photos = [image for _, image in shots]
        source, reductions, inputs, reference = _measure(variant, weights, options, photos, seen, log)
        title = f"{name}, {'SYNTHETIC weights: ' if weights.synthetic else ''}{weights.source}"
        plot_headroom(reductions, source.scales, staged.folder / HEADROOM_PLOT, f"{title}; {len(shots)} photographs")
        files, scales = _paths(staged, name, options), source.scales
        checks = [headroom.headroom_gate(reductions, source.scales), *source.write(files, log)]
        del source  # and with it the tower: the gates want the memory
        checks += run_gates(files, inputs, reference, options, log)

        some = slice(options.gpu_samples)
        save_reference(staged.folder / REFERENCE, inputs[some], reference[some])
        section = VisionSection(
            weights=weights.origin(),
            files=_entries(files, checks),
            input=TensorEntry("image", "float32", inputs[0]["image"].shape, options.input_layout, options.input_range),
            outputs=[_about_output(output, variant, n, reference[0][n]) for n in output.names],
            tower_output=asdict(output),
            scales=asdict(scales),
            preprocessing=preprocessing(variant),
            self_test={
                "reference": {"name": REFERENCE, **asdict(file_entry(staged.folder / REFERENCE))},
                "thresholds": {
                    path.name: device.thresholds(precision, output.names[0] == "embedding")
                    for precision, path in files.items()
                },
            },
            versions=report.versions(),
            gates=[
                {key: getattr(c, key) for key in ("gate", "subject", "backend", "outcome", "detail")} for c in checks
            ],
        )
        manifest = Manifest(name, variant, section, logit_scale=_logit_scale(weights, output))
        manifest, left = carry_over(staged.target, manifest, staged.folder)
        if left:
            log(f"leaving out the {' and the '.join(left)} in {target.name}: made from other weights, or damaged")
        about = {"name": name, "weights": asdict(section.weights), "images": [shot for shot, _ in shots]}
        content = report.as_json(checks, **about, runtime_rules=options.runtime)
        write_json(staged.folder / MANIFEST, manifest.as_json())
        write_json(staged.folder / REPORT, content)
        write_text(staged.folder / MODEL_CARD, model_card(manifest, content))
        passed = not failed(checks)
        return Conversion(staged.keep() if passed else staged.reject(), passed, checks, manifest, content)


@torch.no_grad()
def _measure(
    variant: Variant,
    weights: Weights,
    options: VisionOptions,
    photos: Sequence[Image.Image],
    calibration: Iterable[tuple[str, Image.Image]],
    log: Log,
) -> tuple[Source, list[headroom.Reduction], list[Arrays], list[Arrays]]:
    """The vision tower with the scales it asks for on `photos`, its reductions, and the graph's inputs and outputs.
    `calibration`: further photographs, by name, for the ranges of integer activations."""
    output, layout, value_range = chosen_output(variant, options), options.input_layout, options.input_range
    about = preprocessing(variant)
    images = tower_inputs(photos, variant.image_size, about)
    log(f"measuring headroom on {len(photos)} photographs")
    model: Any = build_tower(variant, weights.state_dict)
    try:
        scales, reductions = headroom.fit_scales(model, images, output)
    except UnsupportedTowerError as error:
        raise InputError(
            f"{variant.size} can't be converted for {output.kind}: {error}; choose another --output"
        ) from error
    log("computing the reference in PyTorch")
    found = [exactness.timm_outputs(model, image, output, layout == "nhwc") for image in images]
    reference = _batches([{name: t.numpy() for name, t in sample.items()} for sample in found], options.batch)
    how: Any = {"layout": layout, "value_range": value_range, "resize": Resize.of(about)}
    prepared = [preprocess(photo, variant.image_size, **how) for photo in photos]
    inputs = _batches([{"image": image} for image in prepared], options.batch)
    pixels = PixelRange(value_range, about["mean"], about["std"])

    def rewritten(scales: Scales, keep: bool) -> nn.Module:
        return rewrite(model, scales, output=output, input_layout=layout, input_range=pixels, keep_norm_weights=keep)

    def differ(scales: Scales, keep: bool) -> float:
        return exactness.max_difference(model, scales, images[0], output, keep_norm_weights=keep)

    example, samples = {"image": torch.from_numpy(inputs[0]["image"])}, inputs
    if calibration:
        seen = [{"image": preprocess(photo, variant.image_size, **how)} for _, photo in calibration]
        samples = _batches(seen, options.batch)
    source = Source("timm", scales, differ, rewritten, example, output.names, samples)
    return source, reductions, inputs, reference


@torch.no_grad()
def convert_text(
    variant: Variant,
    weights: TextWeights,
    target: Path,
    options: GateOptions = GateOptions(("int8",)),
    log: Log = print,
    config: TextConfig | None = None,
) -> Conversion:
    """Convert a text tower and add it, with its tokenizer, to the bundle in `target` (made where there is none); when a
    gate fails, what was made goes to `<target>.rejected` and the bundle is left as it was.

    Signature `tokens` `[1, context_length]` int32 (CLIP's tokenizer, zero-padded) -> `text_embedding` `[1, dim]`
    float32, L2-normalised. `config` is the variant's own where None.

    Raises:
        InputError: what was given can't be used, or the bundle is of another variant or checkpoint.
    """
    config = config or text_config(variant)
    if integer := [row.name for row in find_precisions(options.precisions) if row.integer]:
        raise InputError(f"{', '.join(integer)}: for vision towers, a text tower runs on the CPU; choose int8")
    origin = weights.origin()
    check_resources(sum(t.numel() for t in weights.state_dict.values()), options.precisions, target)
    before = manifest_to_extend(target, variant, "text", origin)
    with staging(target) as staged:
        _require_accelerators(options)
        tokenizer = write_tokenizer(staged.folder / TOKENIZER_FILE)
        log(f"computing the reference in PyTorch on {len(PROMPTS)} prompts, and headroom")
        source, reductions, inputs, reference = _measure_text(config, weights, tokenizer)
        files, scales = _paths(staged, f"{variant.artefact}_text", options), source.scales
        checks = [headroom.headroom_gate(reductions, source.scales), *source.write(files, log, "text ")]
        del source
        checks += run_gates(files, inputs, reference, options, log, options.gpu != "require")

        name = f"{variant.artefact}_text"
        about = {"name": name, "weights": asdict(origin), "prompts": list(PROMPTS)}
        content = report.as_json(checks, **about, runtime_rules=options.runtime)
        write_json(staged.folder / TEXT_REPORT, content)
        save_reference(staged.folder / TEXT_REFERENCE, inputs, reference)
        section = TextSection(
            files={**_entries(files, checks), TOKENIZER_FILE: file_entry(staged.folder / TOKENIZER_FILE)},
            input=TensorEntry("tokens", "int32", [1, config.context_length]),
            output=TensorEntry("text_embedding", "float32", [1, config.output_dim]),
            context_length=config.context_length,
            start_of_text=tokenizer.start,
            end_of_text=tokenizer.end,
            logit_scale=weights.logit_scale,
            weights=origin,
            tokenizer=tokenizer.name,
            scales=asdict(scales),
            versions=report.versions(),
        )
        manifest = replace(before, text=section, logit_scale=weights.logit_scale)
        if failed(checks):
            write_json(staged.folder / MANIFEST, manifest.as_json())
            return Conversion(staged.reject(), False, checks, manifest, content)
        return Conversion(staged.add(manifest), True, checks, manifest, content)


def _measure_text(
    config: TextConfig, weights: TextWeights, tokenizer: ClipTokenizer
) -> tuple[Source, list[headroom.Reduction], list[Arrays], list[Arrays]]:
    """As `_measure`, of a text tower on `PROMPTS`."""
    model: Any = build_text_tower(config, weights.state_dict)
    ids = token_ids(tokenizer, PROMPTS, config.context_length)
    reference = [{"text_embedding": row[None].numpy()} for row in F.normalize(model(ids), dim=-1)]
    tokens = [row[None].int() for row in ids]
    scales, reductions = headroom.fit_text_scales(model, tokenizer.end, tokens)

    def rewritten(scales: Scales, keep: bool) -> nn.Module:
        return rewrite_text(model, scales, tokenizer.end, keep_norm_weights=keep)

    def differ(scales: Scales, keep: bool) -> float:
        return text_exactness.max_difference(model, scales, tokens[3], tokenizer.end, keep)

    source = Source("open_clip", scales, differ, rewritten, {"tokens": tokens[0]}, ("text_embedding",))
    return source, reductions, [{"tokens": row.numpy()} for row in tokens], reference


def chosen_output(variant: Variant, options: VisionOptions) -> Output:
    """The output that `options` ask of `variant`.

    Raises:
        InputError: it has none of that kind, or no such layer.
    """
    by_default = variant.output if options.layer is None else "features"
    kind = options.output or by_default
    if not variant.embedding_dim and (kind == "logits" or (variant.is_pe and kind != "features")):
        also = "" if variant.is_pe else ", embedding or both"
        raise InputError(f"{variant.size} has no pooling and no head to give {kind}: choose --output features{also}")
    try:
        output = Output(kind, options.layer)
        output.block(variant.depth)
    except ValueError as error:
        raise InputError(f"{error} (--output, --layer)") from error
    return output


def bundle_name(variant: Variant, options: VisionOptions) -> str:
    """Stem of the files, and the bundle's folder: the variant's artefact, and what is not as usual."""
    output = chosen_output(variant, options)
    usual = find_timm(variant.timm_name).output if variant.is_pe else variant.output
    layered = output.has_features and not output.is_last_block(variant.depth)
    parts = [
        f"_{output.kind}" if output.kind != usual else "",
        f"_layer{output.block(variant.depth)}" if layered else "",
        f"_batch{options.batch}" if options.batch > 1 else "",
    ]
    return variant.artefact + "".join(parts)


def _require_accelerators(options: GateOptions) -> None:
    """Before any work is done: GateError for what is required and missing, InputError as `npu.prepare`."""
    missing = npu.prepare(options.npu) if options.npu else None
    if missing and options.npu and options.npu.required:
        raise GateError(f"--require-npu, but {missing}")
    if options.gpu == "require" and probe() is None:
        raise GateError(f"--require-gpu, but there is no GPU adapter: {NO_ADAPTER_REMEDY}")


def _paths(staged: Staging, stem: str, options: GateOptions) -> dict[str, Path]:
    return {row.name: staged.folder / f"{stem}_{row.name}.tflite" for row in find_precisions(options.precisions)}


def _entries(files: Mapping[str, Path], checks: Sequence[Check]) -> dict[str, FileEntry]:
    ops = {c.subject: c.figures["ops"] for c in checks if c.gate == "graph"}
    return {path.name: file_entry(path, precision, ops[path.name]) for precision, path in files.items()}


def _batches(samples: list[Arrays], size: int) -> list[Arrays]:
    """Samples in batches; the last is filled up from the front."""
    if size == 1:
        return samples
    rows = [[samples[(start + i) % len(samples)] for i in range(size)] for start in range(0, len(samples), size)]
    return [{name: np.concatenate([row[name] for row in batch]) for name in batch[0]} for batch in rows]


def _about_output(output: Output, variant: Variant, name: str, array: np.ndarray) -> TensorEntry:
    if name == "features":
        block, last = output.block(variant.depth), output.is_last_block(variant.depth)
        normed = ", through the final norm" if last and variant.final_norm else ""
        meaning = f"the patch tokens after block {block} of 0 to {variant.depth - 1}{normed}, as a map"
    else:
        meaning = "the image's embedding, L2-normalised" if name == "embedding" else "the head's output, as it is"
    return TensorEntry(name, "float32", array.shape, meaning=meaning)


def _logit_scale(weights: Weights, output: Output) -> float | None:
    return weights.logit_scale if output.names[0] == "embedding" else None
