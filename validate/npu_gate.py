"""Gate 6: the file compiled for Qualcomm's NPUs, and on request the context executed in simulation."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pecore.runtime import Arrays
from pecore.validate.checks import Check, Outcome
from pecore.validate.gates import quantized_outputs
from pecore.validate.npu import NpuOptions, compile_for_npu, run_on_npu, unavailable
from pecore.validate.npu_verdict import NOT_JUDGED, NpuBuild, NpuRun, Verdict
from pecore.validate.outputs import compare_outputs


def npu_gates(
    path: Path,
    precision: str,
    inputs: Sequence[Arrays],
    reference: Sequence[Arrays],
    options: NpuOptions | None,
    log: Callable[[str], None],
) -> list[Check]:
    """One check for each chip: every op in one partition, and a context. With `options.run` the first that is whole is
    executed on `inputs`, those of the file's first signature, and held against `reference`; one is enough, because the
    simulation doesn't model the chip.

    Skipped with the reason where there is no compiler, unless `options.required`; no check at all without options.
    """
    if options is None:
        return []
    if why := unavailable():
        return [Check("npu", path.name, "Qualcomm QNN", "failed" if options.required else "skipped", why)]
    checks, to_run = [], options.run and bool(inputs)
    with tempfile.TemporaryDirectory(prefix="pecore-npu-") as folder:
        for chip in options.chips:
            log(f"compiling {path.name} for {chip} with Qualcomm's compiler")
            compiled = Path(folder, f"{chip}.tflite")
            check, verdict = compile_check(path, compile_for_npu(path, chip, compiled), options.required)
            if verdict is Verdict.COMPILED and to_run:
                to_run = False
                log(f"executing it in QNN's simulation on {len(inputs)} samples (a minute or more each)")
                run = run_on_npu(compiled, inputs)
                check = run_check(path, check, run, precision, inputs, reference, options.required)
            checks.append(check)
            compiled.unlink(missing_ok=True)
    return checks


def compile_check(path: Path, build: NpuBuild, required: bool) -> tuple[Check, Verdict]:
    """The check that a compilation amounts to, and the verdict itself."""
    version = f" {build.qnn_version}" if build.qnn_version else ""
    outcome: Outcome = "skipped" if build.verdict in NOT_JUDGED and not required else "failed"
    detail = build.detail
    if build.verdict is Verdict.COMPILED:
        outcome, detail = "passed", f"{detail} (compiler)"
    figures = dict(vars(build)) | {"verdict": build.verdict.value, "refused": [vars(r) for r in build.refused]}
    return Check("npu", path.name, f"QNN{version} for {build.chip}", outcome, detail, figures), build.verdict


def run_check(
    path: Path,
    check: Check,
    run: NpuRun,
    precision: str,
    inputs: Sequence[Arrays],
    reference: Sequence[Arrays],
    required: bool,
) -> Check:
    """The check of a compilation with what its context's simulation adds."""
    figures: dict[str, Any] = dict(check.figures)
    figures["simulation"] = {"verdict": run.verdict.value, "run_s": list(run.run_s), "log": run.log}
    if run.verdict is not Verdict.RAN:
        judged = run.verdict not in NOT_JUDGED or required
        detail = f"{check.detail}; {run.detail}"
        return replace(check, outcome="failed" if judged else check.outcome, detail=detail, figures=figures)
    compared = compare_outputs("npu", precision, inputs, reference, run.outputs, quantized_outputs(path, None))
    check = replace(check, detail=f"{check.detail}, {compared.told} (simulated)")
    return check.measured(figures | dict(compared.figures), compared.thresholds)
