"""Judge what exists: a bundle, or any `.tflite` with a reference of its maker's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from convert import bundle
from convert.checkpoint import load
from convert.variants import Variant, build_tower
from pecore.bundle import open_bundle
from pecore.errors import InputError
from pecore.preprocess import preprocess
from pecore.runtime import open_model
from pecore.text_conversion import REFERENCE as TEXT_REFERENCE
from rewrites.tower import Scales, rewrite
from validate import exactness, gates, headroom
from validate.gates import Check
from validate.gpu_child import noise
from validate.graph import read_graph, weights_precision
from validate.photographs import photographs
from validate.reference import REFERENCE, load_reference
from validate.rules import runtimes


@dataclass(frozen=True)
class Options:
    """What to judge by: the rules of `runtime`; the GPU gate `auto`, `require` or `skip`; `reference`, an .npz of one's
    own; `checkpoint`, the weights of a bundle that is not synthetic."""

    runtime: str = runtimes()[-1]
    gpu: str = "auto"
    reference: Path | None = None
    checkpoint: Path | None = None


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
    checks += _judge_weights(made.manifest, options, stage)
    for file in made.files().values():
        checks += judge_file(file, options.reference or path / REFERENCE, options, stage)
    # A text tower is made for the CPU: its conversion reports the GPU gate, and passes without it.
    on_cpu = replace(options, gpu="skip")
    for file in made.files("text").values():
        checks += judge_file(file, path / TEXT_REFERENCE, on_cpu, stage)
    return checks


def judge_file(path: Path, reference: Path | None, options: Options, stage: Callable[[str], None]) -> list[Check]:
    """Gates 2 to 4 on one file; without a reference the GPU is held against the CPU on seeded noise."""
    precision = weights_precision(read_graph(path))
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


def _judge_weights(manifest: Mapping[str, Any], options: Options, stage: Callable[[str], None]) -> list[Check]:
    """Gates 1 and 5, which need the weights: synthetic ones are made again, others have to be given."""
    weights = manifest["weights"]
    variant = Variant(**manifest["variant"])
    if not weights["synthetic"] and options.checkpoint is None:
        detail = "needs the weights: give --checkpoint FILE"
        return [Check(gate, "tower", "PyTorch", "skipped", detail) for gate in ("exact", "headroom")]
    stage("loading weights")
    loaded = (
        load(variant, "synthetic", seed=weights["seed"], amplitude=weights["amplitude"])
        if weights["synthetic"]
        else load(variant, options.checkpoint or "hub")
    )
    if not weights["synthetic"] and loaded.sha256 != weights["sha256"]:
        made_from = weights["source"]
        raise InputError(f"{options.checkpoint} is not what this bundle was made from, {made_from}: give that one")
    model = build_tower(variant, loaded.state_dict)
    images = [torch.from_numpy(preprocess(image, variant.image_size)) for _, image in photographs()]
    stage(f"measuring headroom on {len(images)} photographs")
    scales = Scales(**manifest["scales"])  # the bundle's own: what was converted is what is judged
    reductions = headroom.measure(rewrite(model, scales), scales, images)
    stage("comparing the tower with timm in float64")
    difference = exactness.max_difference(model, scales, images[0])
    return [gates.exact_gate(difference), gates.headroom_gate(reductions)]
