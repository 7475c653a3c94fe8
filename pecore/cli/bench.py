"""pecore bench"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pecore.cli.inputs import JsonOption, ThreadsOption, VerboseOption
from pecore.cli.options import at_least_one
from pecore.errors import InputError
from pecore.console import progress, show, show_json

if TYPE_CHECKING:
    from pecore.convert.baselines import Contender

EXAMPLE = "pecore bench out/pe_core_base_224"


def bench(
    what: Annotated[str, typer.Argument(help="A bundle's folder, or a size (its synthetic weights are converted).")],
    rounds: Annotated[int, typer.Option(callback=at_least_one, help="Paired rounds.")] = 15,
    threads: ThreadsOption = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The weights a bundle was made from.")] = None,
    compile_torch: Annotated[bool, typer.Option("--compile", help="torch.compile too: a minute or two more.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare a tower's files with the other ways to run it on this CPU, in turn: size, time as a ratio, cosine; and
    with themselves on the GPU, where there is one.

    The others are PyTorch and, with the `bench` extra, ONNX Runtime and OpenVINO. They need the weights: synthetic ones
    are made again, others come from where the bundle had them, or from --checkpoint.
    """
    with progress(verbose) as log:
        log("starting")
        content = _measure(what, rounds, threads, checkpoint, compile_torch, log)
    if as_json:
        show_json(content)
    else:
        show(*_screen(content))


def _measure(
    what: str,
    rounds: int,
    threads: int | None,
    checkpoint: Path | None,
    compile_torch: bool,
    log: Callable[[str], None],
) -> dict[str, Any]:
    import os
    from statistics import median
    from tempfile import TemporaryDirectory

    from pecore.validate.gpu_times import times_on_gpu
    from pecore.validate.graph_facts import facts
    from pecore.timing import paired, ratio, spread
    from pecore.validate.parity import compare

    count = threads or os.cpu_count() or 1
    with TemporaryDirectory(prefix="pecore-bench-") as folder:
        files, reference, layout, notes = _subject(what, checkpoint, Path(folder), log)
        photo, image = _inputs(layout)
        runs, base = _contenders(files, reference, photo, image, count, compile_torch, Path(folder), log, notes)
        outputs = {name: run() for name, run in runs.items()}
        log(f"{rounds} rounds of {len(runs)} on {count} threads")
        times = paired(runs, rounds)
        about = {name: facts(path) for name, path in files.items()}
        on_gpu, said = times_on_gpu(files, image, rounds, log)

    def row(name: str, took: list[float], over: list[float], output: Any) -> dict[str, Any]:
        return {
            "name": name,
            "ratio": vars(ratio(took, over)),
            "ms": vars(spread([1000 * t for t in took])),
            "cosine": compare([outputs[base]], [output]).cosine,
            "graph": about.get(name),
        }

    rows = [row(name, took, times[base], outputs[name]) for name, took in times.items()]
    usual = median(times[base])
    rows += [row(name, took, [usual] * len(took), output) for name, (took, output) in on_gpu.items()]
    notes += said
    return {"subject": what, "threads": count, "rounds": rounds, "base": base, "rows": rows, "notes": notes}


def _subject(
    what: str, checkpoint: Path | None, folder: Path, log: Callable[[str], None]
) -> tuple[dict[str, Path], Any, dict[str, Any], list[str]]:
    """The files by name, timm's tower L2-normalised (None where its weights can't be had), how an image goes in, and
    what is to be said about it."""
    from functools import partial

    import torch

    from pecore.convert.checkpoint import load
    from pecore.convert.forms import FORMS, by_form, write_files
    from pecore.variants import Variant, build_tower, find
    from pecore.bundle import open_bundle
    from pecore.convert.bundle_weights import weights_of
    from pecore.convert.resources import check_resources
    from pecore.rewrites.tower import rewrite
    from pecore.validate.ablation_variants import Untouched

    if Path(what).is_dir():
        bundle = open_bundle(what)
        if bundle.manifest["output"]["name"] != "embedding":
            raise InputError(f"{what} gives {bundle.manifest['output']['name']}: bench compares embeddings alone")
        files = {f"LiteRT {precision}": path for precision, path in bundle.files().items()}
        variant, given = Variant(**bundle.manifest["variant"]), bundle.manifest["input"]
        layout = {"layout": given["layout"].lower(), "range": given["range"], "side": variant.image_size}
        log("loading weights")
        try:
            weights = weights_of(bundle, checkpoint)
        except InputError as error:
            return files, None, layout, [f"Without PyTorch and ONNX: {error}."]
        reference = Untouched(build_tower(variant, weights.state_dict), torch.float32).eval()
        return files, reference, layout, ["Synthetic weights."] * (weights.kind == "synthetic")
    try:
        variant = find(what)
    except InputError as error:
        raise InputError(f"{what} is neither a bundle's folder nor a size ({error})") from error
    if not variant.embedding_dim:
        raise InputError(f"{what} gives no embedding: bench compares core towers alone")
    check_resources(variant.parameters, tuple(FORMS), folder)
    log(f"{variant.size}: loading weights")
    weights = load(variant, checkpoint or "synthetic")
    model = build_tower(variant, weights.state_dict)
    image = {"image": torch.zeros(1, 3, variant.image_size, variant.image_size)}
    files = {precision: folder / f"{precision}.tflite" for precision in FORMS}
    for form, made in by_form(files):
        write_files(partial(rewrite, model, **form.options), image, made, ("embedding",), log)
    layout = {"layout": "nchw", "range": "-1..1", "side": variant.image_size}
    notes = ["Synthetic weights."] * (weights.kind == "synthetic")
    named = {f"LiteRT {precision}": path for precision, path in files.items()}
    return named, Untouched(model, torch.float32).eval(), layout, notes


def _inputs(layout: dict[str, Any]) -> tuple[Any, Any]:
    """A photograph as timm's tower takes it, and as the files do."""
    from pecore.image import preprocess
    from pecore.validate.photographs import photographs

    photo = next(iter(photographs()))[1]
    own = preprocess(photo, layout["side"], layout=layout["layout"], value_range=layout["range"])
    return preprocess(photo, layout["side"]), own


def _contenders(
    files: dict[str, Path],
    reference: Any,
    image: Any,
    own: Any,
    threads: int,
    compile_torch: bool,
    folder: Path,
    log: Callable[[str], None],
    notes: list[str],
) -> tuple[dict[str, "Contender"], str]:
    """Everything that can run here, by name, and which of them the ratios are to: PyTorch, or the first file. `image`
    is timm's tower's, `own` the files'."""
    import torch

    from pecore.convert import baselines as contenders

    runs: dict[str, contenders.Contender] = {}
    if reference is not None:
        runs["PyTorch"] = contenders.eager(reference, image, threads)
        if compile_torch:
            log("compiling with torch.compile")
            runs["torch.compile"] = contenders.compiled(reference, image, threads)
    for name, path in files.items():
        log(f"loading {name}")
        runs[name] = contenders.litert(path, own, threads)
    missing = contenders.missing()
    exported = reference is not None and not {"onnx", "onnxscript"} & set(missing)
    if exported and len(missing) < 2:
        log("exporting to ONNX")
        contenders.export_onnx(reference, torch.from_numpy(image), folder / "timm.onnx")
        if "onnxruntime" not in missing:
            log("loading ONNX Runtime")
            contenders.quantize_onnx(folder / "timm.onnx", folder / "timm_int8.onnx")
            runs["ONNX Runtime fp32"] = contenders.onnx_runtime(folder / "timm.onnx", image, threads)
            runs["ONNX Runtime int8"] = contenders.onnx_runtime(folder / "timm_int8.onnx", image, threads)
        if "openvino" not in missing:
            log("loading OpenVINO")
            runs["OpenVINO fp32"] = contenders.openvino(folder / "timm.onnx", image, threads)
    if missing and reference is not None:
        notes.append(f"Not installed: {', '.join(missing)}; `pip install 'pecore-litert[bench]'` adds what is missing.")
    return runs, next(iter(runs))


def _screen(content: dict[str, Any]) -> list[Any]:
    title = f"{content['subject']}: {content['threads']} threads, {content['rounds']} paired rounds"
    out = Table(title=title, title_justify="left", header_style="bold")
    for heading in ("", f"time to {content['base']}'s", "quartiles", "ms", "cosine", "ops", "tensors", "MB", "GMACs"):
        out.add_column(heading, justify="left" if not heading else "right")
    for row in content["rows"]:
        graph, time = row["graph"], row["ratio"]
        sizes = ("", "", "", "")
        if graph:
            megabytes, gigamacs = graph["bytes"] / 1e6, graph["macs"] / 1e9
            sizes = (str(graph["ops"]), str(graph["tensors"]), f"{megabytes:.1f}", f"{gigamacs:.2f}")
        spread = f"{time['low']:.2f} to {time['high']:.2f}"
        out.add_row(
            row["name"], f"{time['median']:.2f}", spread, f"{row['ms']['median']:.0f}", f"{row['cosine']:.6f}", *sizes
        )
    return [out, *content["notes"]]
