"""Judge what exists: a bundle, or any `.tflite` with a reference of its maker's."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convert import bundle
from convert.card import model_card
from convert.forms import by_form
from convert.variants import Variant, build_tower
from pecore.bundle import Bundle, open_bundle
from pecore.bundle_weights import output_of, weights_of
from pecore.errors import InputError
from pecore.preprocess import preprocess
from pecore.runtime import TensorSpec, open_model
from pecore.text_conversion import reported
from rewrites.tower import Scales
from validate import device, exactness, gates, headroom
from validate.gates import Check
from validate.gpu_child import noise
from validate.graph import read_graph, weights_precision
from validate.photographs import photographs
from validate.reference import REFERENCE, load_reference
from validate.rules import known_runtime, runtimes


@dataclass(frozen=True)
class Options:
    """What to judge by: the rules of `runtime`; the GPU gate `auto`, `require` or `skip`; `reference`, an .npz of one's
    own; `checkpoint`, the weights of a bundle that is not synthetic."""

    runtime: str = runtimes()[-1]
    gpu: str = "auto"
    reference: Path | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        known_runtime(self.runtime)


def validate(path: Path, options: Options, stage: Callable[[str], None] = print) -> list[Check]:
    """Every gate that can be run on a bundle's folder or on a `.tflite`.

    Raises:
        InputError: there is nothing to judge at `path`, or it can't be read.
    """
    if not path.is_dir():
        return judge_file(path, options.reference, options, stage)
    made = open_bundle(path)
    checks = [_integrity(path, made.manifest)]
    if checks[0].outcome == "failed":
        return checks
    checks += _judge_weights(made, options, stage)
    for precision, file in made.files().items():
        checks += judge_file(file, options.reference or path / REFERENCE, options, stage, precision)
    # A text tower is made for the CPU: its conversion reports the GPU gate, and passes without it.
    on_cpu = replace(options, gpu="skip")
    for file in made.files("text").values():
        judged = judge_file(file, path / bundle.TEXT_REFERENCE, on_cpu, stage)
        checks += [reported(c, on_cpu.gpu) if c.gate == "graph" else c for c in judged]
    return checks


def judge_device(folder: Path, path: Path) -> list[Check]:
    """Judge what a device's self-test reported of the bundle in `folder`, and keep it in its report and model card.

    A device's later report takes the place of its earlier one.

    Raises:
        InputError: there is no bundle, or the file is not a report of it.
    """
    made = open_bundle(folder)
    told = device.read_device_report(path)
    if told["fingerprint"] != made.manifest["weights"]["fingerprint"]:
        raise InputError(f"{path} is about other weights than {folder} holds: run the self-test with this bundle")
    output = made.manifest["output"]
    spec = TensorSpec(tuple(output["shape"]), np.dtype(output["dtype"]))
    _, reference = load_reference(folder / REFERENCE, {}, {output["name"]: spec})
    checks = device.judge(told, made.manifest["files"], [sample[output["name"]] for sample in reference])
    try:
        content = json.loads((folder / bundle.REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / bundle.REPORT} can't be read ({error}); convert the model again") from error
    entry = {key: told.get(key) for key in ("device", "versions")} | {"gates": [c.as_dict() for c in checks]}
    others = [d for d in content.get("devices", []) if d["device"] != told["device"]]
    content["devices"] = [*others, entry]
    bundle.write_json(folder / bundle.REPORT, content)
    bundle.write_text(folder / bundle.MODEL_CARD, model_card(made.manifest, content))
    return checks


def judge_file(
    path: Path,
    reference: Path | None,
    options: Options,
    stage: Callable[[str], None],
    precision: str | None = None,
) -> list[Check]:
    """Gates 2 to 4 on one file; without a reference the GPU is held against the CPU on seeded noise. `precision` as the
    manifest has it; without one, that of the weights."""
    precision = precision or weights_precision(read_graph(path))
    checks = [gates.graph_gate(path, options.runtime)]
    stage(f"running {path.name} on the CPU")
    model = open_model(path, backend="cpu")
    if reference is None:
        samples = [noise(model.inputs)]
        outputs = [model.run(sample) for sample in samples]
        detail = "nothing to compare with: give --reference FILE.npz"
        checks.append(Check("cpu", path.name, "LiteRT CPU", "skipped", detail))
    else:
        samples, expected = load_reference(reference, model.inputs, model.outputs)
        check, outputs = gates.cpu_gate(path, precision, samples, expected)
        checks.append(check)
    return checks + gates.gpu_gates(path, precision, samples, outputs, options.gpu, stage)


def _integrity(folder: Path, manifest: Mapping[str, Any]) -> Check:
    files = manifest["files"] | manifest.get("text", {}).get("files", {})
    wrong = bundle.damaged(folder, files)
    detail = f"{', '.join(wrong)}: missing or not as made" if wrong else f"{len(files)} files as made"
    return Check("files", folder.name, "sha256", "failed" if wrong else "passed", detail)


def _judge_weights(made: Bundle, options: Options, stage: Callable[[str], None]) -> list[Check]:
    """Gates 1 and 5, which need the weights: synthetic ones are made again, others have to be given."""
    manifest = made.manifest
    if not manifest["weights"]["synthetic"] and options.checkpoint is None:
        detail = "needs the weights: give --checkpoint FILE"
        return [Check(gate, "tower", "PyTorch", "skipped", detail) for gate in ("exact", "headroom")]
    stage("loading weights")
    variant = Variant(**manifest["variant"])
    model = build_tower(variant, weights_of(made, options.checkpoint).state_dict)
    images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in photographs()]
    stage(f"measuring headroom on {len(images)} photographs")
    scales = Scales(**manifest["scales"])  # the bundle's own: what was converted is what is judged
    output = output_of(made)
    checks = []
    for form, _ in by_form(made.files()):
        stage(f"comparing the {form.name} with timm in float64")
        difference = exactness.max_difference(model, scales, images[0], output, **form.options)
        checks.append(gates.exact_gate(difference, form.name))
    reductions = headroom.measure_by_parts(model, scales, images, output)
    return [*checks, gates.headroom_gate(reductions)]
