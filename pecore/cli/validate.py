"""pecore validate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pecore.cli.gates_table import gates_table
from pecore.cli.options import AcceptLicence, Npu, NpuRun, RequireNpu, Verbose, npu_options
from pecore.console import progress, show, show_json
from pecore.extras import missing_extra

if TYPE_CHECKING:
    from pecore.validate.bundle import LoadTower

EXAMPLE = "pecore validate out/pe_core_base_224"


def validate(
    path: Annotated[Path, typer.Argument(help="A bundle's folder, or any .tflite.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="An .npz of arrays by the graph's input and output names, samples first."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The weights a bundle was made from.")] = None,
    runtime: Annotated[str | None, typer.Option(help="LiteRT version whose rules apply; the newest known.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="Run the GPU gate where there is an adapter.")] = True,
    require_gpu: Annotated[bool, typer.Option("--require-gpu", help="No adapter is a failure.")] = False,
    npu: Npu = None,
    npu_run: NpuRun = False,
    require_npu: RequireNpu = False,
    accept_licence: AcceptLicence = False,
    device_report: Annotated[
        Path | None,
        typer.Option(help="What the app's or the web page's self-test shared: check that, and keep it in the card."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run the gates on what exists: a bundle, or a .tflite of your own (exit code 1 if one fails)."""
    with progress(verbose) as log:
        log("starting")
        from pecore.validate.bundle import ValidationOptions, check_device_report
        from pecore.validate.bundle import validate as run
        from pecore.validate.checks import failed
        from pecore.validate.report import as_json as report
        from pecore.validate.rules import runtimes

        options = ValidationOptions(
            runtime=runtime or runtimes()[-1],
            gpu="require" if require_gpu else "auto" if gpu else "skip",
            reference=reference,
            checkpoint=checkpoint,
            npu=npu_options(npu, npu_run, require_npu, accept_licence),
        )
        if device_report:
            checks = check_device_report(path, device_report)
        else:
            checks = run(path, options, _load_tower(), log)
    if as_json:
        show_json(report(checks, name=path.name, runtime_rules=options.runtime))
    else:
        show(gates_table(checks, f"Gates of {path}"))
    raise typer.Exit(1 if failed(checks) else 0)


def _load_tower() -> "LoadTower | None":
    """How gates 1 and 5 get the weights; None without the `convert` extra, where they are skipped."""
    try:
        from pecore.convert.load import bundle_tower
    except ImportError as error:
        if missing_extra(error):
            return None
        raise
    return bundle_tower
