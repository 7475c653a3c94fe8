"""Gate 6, the phone or the browser: what a device reports of itself, judged here by the same figures.

A device runs a bundle's `reference.npz` and writes a report (`docs/artefacts.md`). Its figures are not taken on trust:
they are computed again from the outputs that the report carries.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pecore.bundle import FileEntry
from pecore.errors import InputError
from pecore.precision import PRECISIONS
from pecore.validate import parity
from pecore.validate.checks import Check, Outcome
from pecore.validate.outputs import is_batch, is_unit

KINDS = ("cpu", "gpu fp16", "gpu fp32")
"""What a device computes on, and in; the first keys of `gates.THRESHOLDS`."""


def thresholds(precision: str, unit: bool = True) -> dict[str, dict[str, float]]:
    """Kind -> figure -> worst value that passes, for a file with weights in `precision` whose (first) output is a unit
    vector, or is not.

    A device is held against PyTorch, where the GPU gate has the same file on the CPU: what the weights' rounding may do
    and what the GPU may do come together.
    """
    row = PRECISIONS[precision]
    rounding = row.thresholds("cpu", unit)
    chosen = {"cpu": dict(rounding)}
    for kind in KINDS[1:]:
        computing = row.thresholds(kind, unit)
        chosen[kind] = {
            "correlation": _together(rounding["cosine"], computing["correlation"]),
            "norm_error": rounding["norm_error"] + computing["norm_error"],
        }
    return chosen


def _together(first: float, second: float) -> float:
    """The least cosine of two vectors of which each has one of these with a third: the angles add up."""
    return math.cos(sum(math.acos(min(cosine, 1.0)) for cosine in (first, second)))


def read_device_report(path: Path) -> dict[str, Any]:
    """The report in a file.

    Raises:
        InputError: it can't be read, or is not a device's report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); give the file that the self-test shared") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); give the file that the self-test shared") from error
    try:
        device, gates = report["device"], report["gates"]
        sound = report["format"] == 1 and device["name"] + device["system"] and report["fingerprint"]
        sound = sound and gates and all(g["gate"] == "device" and g["outcome"] in get_args(Outcome) for g in gates)
        sound = sound and all(isinstance(g[key], str) for g in gates for key in ("subject", "backend", "detail"))
        sound = sound and all(g["outcome"] == "skipped" or g["figures"]["kind"] in KINDS for g in gates)
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise InputError(f"{path} is not a device's report; give the file that the self-test shared")
    return report


def check_report(
    report: Mapping[str, Any], files: Mapping[str, FileEntry], reference: Sequence[np.ndarray]
) -> list[Check]:
    """A check for each of the report's gates.

    Args:
        report: from `read_device_report`.
        files: of the bundle's manifest, by name.
        reference: the output that each sample should give; of a batch [B, ...] each image is judged by itself.

    Raises:
        InputError: the report is of other files, or its outputs are not of the reference's size.
    """
    return [_check_gate(gate, files, reference) for gate in report["gates"]]


def _check_gate(gate: Mapping[str, Any], files: Mapping[str, FileEntry], reference: Sequence[np.ndarray]) -> Check:
    subject, backend, told = gate["subject"], gate["backend"], gate.get("figures", {})
    if gate["outcome"] == "skipped":
        return Check("device", subject, backend, "skipped", gate["detail"])
    if subject not in files or told.get("sha256") != files[subject].sha256:
        raise InputError(f"the report judges a {subject} that is not this bundle's: run the self-test with this bundle")
    about = {key: told[key] for key in ("kind", "latency_ms") if key in told}
    expected = _images(reference)
    worst = thresholds(str(files[subject].precision), all(map(is_unit, expected)))[told["kind"]]
    if not told.get("outputs"):  # it did not run
        return Check("device", subject, backend, "failed", gate["detail"], about, worst)
    outputs = [_decode(text, sample, subject) for text, sample in zip(told["outputs"], reference)]
    if len(told["outputs"]) != len(reference):
        raise InputError(
            f"the report has {len(told['outputs'])} outputs of {subject}, the bundle's reference {len(reference)} "
            "samples: run the self-test with this bundle"
        )
    samples, again = len(outputs), []
    if told.get("later"):  # the first sample again, after the others: see `web_demo/site/runs.js`
        outputs, again = [*outputs, _decode(told["later"], reference[0], subject)], [reference[0]]
    figures = parity.compare(_images([*reference, *again]), _images(outputs)).as_dict() | {"samples": samples} | about
    detail = f"cosine {figures['cosine']:.7f}, |norm - 1| {figures['norm_error']:.0e}{_latency(about)}"
    return Check("device", subject, backend, "passed", detail).measured(figures, worst)


def _images(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Batches taken apart: a bundle's output has its images along the first axis, as its input has."""
    return [image for sample in samples for image in (sample if is_batch({}, sample) else [sample])]


def _decode(text: Any, expected: np.ndarray, subject: str) -> np.ndarray:
    """The little-endian float32 numbers of an output."""
    try:
        array = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"an output of {subject} in the report is damaged ({error}): share it again") from error
    if array.size != expected.size:
        raise InputError(
            f"an output of {subject} in the report has {array.size} numbers, the bundle's {expected.size}: "
            "run the self-test with this bundle"
        )
    return array.reshape(expected.shape)


def _latency(about: Mapping[str, Any]) -> str:
    median = (about.get("latency_ms") or {}).get("median")
    return f", median {median:.1f} ms" if isinstance(median, int | float) and math.isfinite(median) else ""
