"""Check what exists: a bundle, or any `.tflite` with a reference of its maker's."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pecore.bundle import MODEL_CARD, REFERENCE, REPORT, TEXT_REFERENCE, Bundle, open_bundle
from pecore.errors import InputError
from pecore.files import write_json, write_text
from pecore.precision import PRECISIONS, by_tower
from pecore.runtime import Arrays, CannotRunError, TensorSpec, open_model
from pecore.validate import device, gates
from pecore.validate.checks import Check, advisory
from pecore.validate.gpu import Verdict
from pecore.validate.gpu_child import noise
from pecore.validate.graph import computes_in_integers, read_graphs, weights_precision
from pecore.validate.model_card import model_card
from pecore.validate.npu import NpuOptions, prepare
from pecore.validate.npu_gate import npu_gates
from pecore.validate.reference import holds_signature, load_reference
from pecore.validate.rules import known_runtime, runtimes

Log = Callable[[str], None]

LoadTower = Callable[[Bundle, Path | None], Any]
"""A bundle and a checkpoint -> timm's tower with the weights that the bundle was made from
(`pecore.convert.load.bundle_tower`). InputError where they are not available, or are others."""


@dataclass(frozen=True)
class ValidationOptions:
    """What to check by: the rules of `runtime`; the GPU gate `auto`, `require` or `skip`; `reference`, an .npz of one's
    own; `checkpoint`, the weights of a bundle that is not synthetic; `npu`, what to ask of Qualcomm's compiler, if
    anything."""

    runtime: str = runtimes()[-1]
    gpu: str = "auto"
    reference: Path | None = None
    checkpoint: Path | None = None
    npu: NpuOptions | None = None

    def __post_init__(self) -> None:
        known_runtime(self.runtime)


def validate(
    path: Path, options: ValidationOptions, load_tower: LoadTower | None = None, log: Log = print
) -> list[Check]:
    """Every gate that can be run on a bundle's folder or on a `.tflite`.

    Args:
        load_tower: for gates 1 and 5, which need the weights in PyTorch; they are skipped without it.

    Raises:
        InputError: there is nothing to check at `path`, or it can't be read, or Qualcomm's licence isn't accepted, or a
            chip not known.
    """
    if options.npu:
        prepare(options.npu)
    if not path.is_dir():
        return check_file(path, options.reference, options, log)
    bundle = open_bundle(path)
    checks = [_integrity(bundle)]
    if checks[0].outcome == "failed":
        return checks
    checks += _check_tower(bundle, options, load_tower, log)
    for precision, file in bundle.files().items():
        integer = PRECISIONS[precision].integer
        found = check_file(file, options.reference or path / REFERENCE, options, log, precision)
        checks += [advisory(c, "NPUs") if integer and c.gate == "graph" else c for c in found]
    # A text tower is made for the CPU: its conversion reports on the GPU, and passes without it.
    on_cpu = replace(options, gpu="skip", npu=None)
    for file in bundle.files("text").values():
        found = check_file(file, path / TEXT_REFERENCE, on_cpu, log)
        checks += [advisory(c) if c.gate == "graph" else c for c in found]
    return checks


def check_file(
    path: Path,
    reference: Path | None,
    options: ValidationOptions,
    log: Log,
    precision: str | None = None,
) -> list[Check]:
    """Gates 2 to 4, and 6, on one file, 3 and 4 on each of its signatures; without a reference the GPU is held against
    the CPU on seeded noise. `precision` as the manifest has it; without one, that of the weights.

    Raises:
        InputError: the file is no `.tflite`, or the reference does not fit it.
    """
    graphs = read_graphs(path)
    precision = precision or weights_precision(*graphs)
    checks = [gates.graph_gate(path, options.runtime)]
    keys = [signature.key for signature in graphs[0].signatures]
    for i, key in enumerate(keys if len(keys) > 1 else [None]):
        own = reference if i == 0 or reference is None or holds_signature(reference, str(key)) else None
        checks += _check_signature(_Subject(path, key, precision, own), options, log)
    if options.npu:
        key = keys[0] if len(keys) > 1 else None
        samples, expected = _npu_samples(path, reference, key) if options.npu.run else ([], [])
        checks += npu_gates(path, precision, samples, expected, options.npu, log)
    return checks


def _npu_samples(path: Path, reference: Path | None, signature: str | None) -> tuple[list[Arrays], list[Arrays]]:
    """What to execute an NPU's context on and to hold it against: the reference, or seeded noise and the CPU; nothing
    where neither is possible, which gate 3 reports."""
    try:
        model = open_model(path, backend="cpu", signature=signature)
        if reference is not None:
            return load_reference(reference, model.inputs, model.outputs, signature)
        samples = [noise(model.inputs)]
        return samples, [model.run(sample) for sample in samples]
    except (CannotRunError, MemoryError):
        return [], []


@dataclass(frozen=True)
class _Subject:
    """A signature (None: the only one) of a file, and the reference it is held against."""

    path: Path
    signature: str | None
    precision: str
    reference: Path | None

    @property
    def name(self) -> str:
        return gates.subject(self.path, self.signature)


def _check_signature(subject: _Subject, options: ValidationOptions, log: Log) -> list[Check]:
    path, key = subject.path, subject.signature
    log(f"running {subject.name} on the CPU")
    try:
        model = open_model(path, backend="cpu", signature=key)
        if subject.reference is None:
            try:
                samples = [noise(model.inputs)]
            except InputError as error:  # it takes text, say: that is no reason to leave the other gates out
                return [Check(gate, subject.name, "LiteRT CPU", "skipped", str(error)) for gate in ("cpu", "gpu")]
            outputs = [model.run(sample) for sample in samples]
            arrays = f"{key}/NAME arrays" if options.reference else "FILE.npz"
            detail = f"nothing to compare with: give --reference {arrays}{_open_sizes(model.inputs)}"
            check = Check("cpu", subject.name, "LiteRT CPU", "skipped", detail)
        else:
            samples, expected = load_reference(subject.reference, model.inputs, model.outputs, key)
            check, outputs = gates.cpu_gate(path, subject.precision, samples, expected, signature=key)
    except (CannotRunError, MemoryError) as error:
        why = "it needs more memory than there is" if isinstance(error, MemoryError) else str(error)
        failed = Check("cpu", subject.name, gates.cpu_backend(), "failed", why)
        return [failed, Check("gpu", subject.name, "ML Drift", "skipped", "no CPU outputs to compare with")]
    if any(sample[name].shape != spec.shape for sample in samples for name, spec in model.inputs.items()):
        detail = "the GPU takes the sizes that the file was written with alone, and the reference has others"
        return [check, Check("gpu", subject.name, "ML Drift", "skipped", detail)]
    on_gpu = gates.gpu_gates(path, subject.precision, samples, outputs, options.gpu, log, key)
    if subject.reference is None and any(computes_in_integers(g) for g in read_graphs(path) if key in (None, g.key)):
        on_gpu = [_on_noise(check) for check in on_gpu]
    return [check, *on_gpu]


def _on_noise(check: Check) -> Check:
    """The GPU's verdict on a graph that computes in integers, of which noise tells little: it leaves the range that the
    activations were quantized for, which the CPU clamps and the GPU, computing in floats, does not."""
    if check.outcome != "failed" or check.figures["verdict"] != Verdict.RAN:
        return check
    why = "not judged: a graph of integers on made-up inputs; give --reference FILE.npz with real ones"
    return replace(check, outcome="skipped", detail=f"{why} ({check.detail})")


def _open_sizes(inputs: Mapping[str, TensorSpec]) -> str:
    """What to say of inputs whose size the file leaves open, empty where there is none."""
    found = [f"'{name}' {list(spec.open)} was run at {list(spec.shape)}" for name, spec in inputs.items() if spec.open]
    return f"; sizes left open: {', '.join(found)}" if found else ""


def check_device_report(folder: Path, path: Path) -> list[Check]:
    """Check what a device's self-test reported of the bundle in `folder`, and keep it in its report and model card.

    A device's later report takes the place of its earlier one.

    Raises:
        InputError: there is no bundle, or the file is not a report of it.
    """
    bundle = open_bundle(folder)
    reported = device.read_device_report(path)
    if reported["fingerprint"] != bundle.vision.weights.fingerprint:
        raise InputError(f"{path} is about other weights than {folder} holds: run the self-test with this bundle")
    output = bundle.vision.output
    spec = TensorSpec(tuple(output.shape), np.dtype(output.dtype))
    _, reference = load_reference(folder / REFERENCE, {}, {output.name: spec})
    checks = device.check_report(reported, bundle.vision.files, [sample[output.name] for sample in reference])
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / REPORT} can't be read ({error}); convert the model again") from error
    entry = {key: reported.get(key) for key in ("device", "versions")} | {"gates": [c.as_dict() for c in checks]}
    others = [d for d in content.get("devices", []) if d["device"] != reported["device"]]
    content["devices"] = [*others, entry]
    write_json(folder / REPORT, content)
    write_text(folder / MODEL_CARD, model_card(bundle.manifest, content))
    return checks


def _integrity(bundle: Bundle) -> Check:
    wrong = bundle.damaged()
    count = len(bundle.manifest.files)
    detail = f"{', '.join(wrong)}: missing or not as made" if wrong else f"{count} files as made"
    return Check("files", bundle.folder.name, "sha256", "failed" if wrong else "passed", detail)


def _check_tower(bundle: Bundle, options: ValidationOptions, load_tower: LoadTower | None, log: Log) -> Sequence[Check]:
    """Gates 1 and 5, which need the weights: synthetic ones are made again, others have to be given."""
    why = None
    if load_tower is None:
        why = "needs PyTorch: pip install 'pecore-litert[convert]'"
    elif not bundle.synthetic and options.checkpoint is None:
        why = "needs the weights: give --checkpoint FILE"
    if load_tower is None or why:
        return [Check(gate, "tower", "PyTorch", "skipped", str(why)) for gate in ("exact", "headroom")]
    from pecore.rewrites import Output, Scales
    from pecore.validate import exactness, headroom
    from pecore.validate.photographs import photographs, tower_inputs

    log("loading weights")
    model = load_tower(bundle, options.checkpoint)
    shots = (image for _, image in photographs())
    images = tower_inputs(shots, bundle.variant.image_size, bundle.vision.preprocessing)
    log(f"measuring headroom on {len(images)} photographs")
    scales = Scales(**bundle.vision.scales)  # the bundle's own: what was converted is what is checked
    output = Output(**bundle.vision.tower_output)
    checks = []
    for row, _ in by_tower(bundle.files()):
        log(f"comparing the {row.tower} with timm in float64")
        keep = row.keep_norm_weights
        difference = exactness.max_difference(model, scales, images[0], output, keep_norm_weights=keep)
        checks.append(exactness.exact_gate(difference, row.tower))
    reductions = headroom.measure_by_parts(model, scales, images, output)
    return [*checks, headroom.headroom_gate(reductions, scales)]
