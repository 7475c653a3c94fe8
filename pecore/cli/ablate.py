"""pecore ablate"""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pecore.cli.options import Verbose
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError
from pecore.files import write_json, write_text

EXAMPLE = "pecore ablate --size T16 --only norm,norm-published,timm"

COMPARED = 2
"""Photographs whose embeddings are compared; the scales are fitted on all."""


def ablate(
    size: Annotated[str, typer.Option(help="T16, S16, B16, L14 or G14.")] = "T16",
    depth: Annotated[int, typer.Option(help="Blocks to keep: 3 show everything; 0 keeps all.")] = 3,
    amplitudes: Annotated[
        str, typer.Option(help="Largest activations of the synthetic weights, separated by commas.")
    ] = "400,2000,8000,20000",
    only: Annotated[str, typer.Option(help="Rewrites to take out, separated by commas; all of them if empty.")] = "",
    save: Annotated[
        Path | None, typer.Option(help="Folder for ablation.json, ablation.md (the table) and ablation.png.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Take one rewrite out at a time and show what breaks on ML Drift (exit code 1 if the whole tower does)."""
    with progress(verbose) as log:
        log("starting")
        from pecore.validate.ablation import choose_rows, markdown, passed
        from pecore.validate.ablation_plot import plot

        rows = choose_rows([name.strip() for name in only.split(",") if name.strip()])
        levels = _amplitudes(amplitudes)
        if save is not None:
            _make(save)
        content = _run(size, depth, levels, rows, seed, log)
        content["command"] = _command(size, depth, amplitudes, only, seed)
        if save is not None:
            log(f"writing to {save}")
            write_json(save / "ablation.json", content)
            write_text(save / "ablation.md", markdown(content))
            plot(content, save / "ablation.png")
    if as_json:
        show_json(content)
    else:
        show(*_screen(content))
    raise typer.Exit(0 if passed(content["rows"]) else 1)


def _run(size: str, depth: int, amplitudes: list[float], rows: Any, seed: int, log: Any) -> dict[str, Any]:
    from dataclasses import replace

    import torch

    from pecore.convert.synthetic import synthetic_state_dict
    from pecore.convert.tflite_files import write_fp16
    from pecore.convert.towers import build_tower
    from pecore.image import preprocess
    from pecore.validate import ablation, report
    from pecore.validate.gpu import probe
    from pecore.validate.photographs import photographs
    from pecore.variants import find

    whole = find(size)
    if whole.family != "core":
        raise InputError(f"--size {size}: rewrites are taken out of a core tower, which has all of them, such as T16")
    if not 0 <= depth <= whole.depth:
        raise InputError(f"--depth {depth}: {size} has {whole.depth} blocks; take 3, or 0 for all of them")
    variant = replace(whole, depth=depth or whole.depth)
    shots = [(name, torch.from_numpy(preprocess(image, variant.image_size))) for name, image in photographs()]

    def build(amplitude: float) -> Any:
        return build_tower(variant, synthetic_state_dict(variant, seed, amplitude))

    adapter = probe()
    if adapter is None:
        log("no GPU adapter: op counts and rules only (`make gpu-driver` installs a software one)")
    images = [image for _, image in shots]
    results = ablation.ablate(build, write_fp16, images, amplitudes, rows, compared=COMPARED, log=log)
    return {
        "format": 1,
        "variant": whole.artefact,
        "depth": variant.depth,
        "of": whole.depth,
        "image_size": variant.image_size,
        "weights": f"synthetic weights (seed {seed})",
        "images": [name for name, _ in shots[:COMPARED]],
        "amplitudes": amplitudes,
        "adapter": vars(adapter) if adapter else None,
        "versions": report.versions(),
        "rows": [r.as_dict() for r in results],
    }


def _amplitudes(text: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(a) for a in text.split(",")))
    except ValueError as error:
        raise InputError(f"--amplitudes {text!r} is no list of numbers: try 400,2000,8000,20000") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--save {folder}: {error.strerror}; give a folder that can be written to") from error


def _command(size: str, depth: int, amplitudes: str, only: str, seed: int) -> str:
    words = ["pecore", "ablate", "--size", size, "--depth", str(depth), "--amplitudes", amplitudes]
    return shlex.join([*words, *(["--only", only] if only else []), *(["--seed", str(seed)] if seed else [])])


def _screen(content: dict[str, Any]) -> list[Any]:
    from pecore.validate.ablation import about, cells, headings

    amplitudes = content["amplitudes"]
    rows = [cells(row, amplitudes) for row in content["rows"]]
    out = table(f"Ablation of {content['variant']}", headings(amplitudes), rows)
    remedy = "No GPU adapter was found, so nothing ran on ML Drift: `make gpu-driver` installs a software one."
    return [out, about(content), *([] if content["adapter"] else [remedy])]
