"""pecore validate"""

from pathlib import Path
from typing import Annotated

import typer

from pecore.console import progress, show, show_json

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
    device_report: Annotated[
        Path | None,
        typer.Option(help="What the app's or the web page's self-test shared: judge that, and keep it in the card."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the libraries print.")] = False,
) -> None:
    """Run the gates on what exists: a bundle, or a .tflite of your own (exit code 1 if one fails)."""
    with progress(verbose) as log:
        log("starting")
        from pecore.validate.bundle import Options, judge_device
        from pecore.validate.bundle import validate as run
        from pecore.validate.report import as_json as report
        from pecore.validate.report import failed, table
        from pecore.validate.rules import runtimes

        options = Options(
            runtime=runtime or runtimes()[-1],
            gpu="require" if require_gpu else "auto" if gpu else "skip",
            reference=reference,
            checkpoint=checkpoint,
        )
        checks = judge_device(path, device_report) if device_report else run(path, options, log)
    if as_json:
        show_json(report(checks, name=path.name, runtime_rules=options.runtime))
    else:
        show(table(checks, f"Gates of {path}"))
    raise typer.Exit(1 if failed(checks) else 0)
