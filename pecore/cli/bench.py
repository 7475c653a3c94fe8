"""pecore bench"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pecore.cli.inputs import JsonOption, ThreadsOption, VerboseOption
from pecore.cli.options import at_least_one
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from pecore.convert.baselines import Baseline

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
        plan = Plan(rounds, threads or os.cpu_count() or 1, checkpoint, compile_torch)
        content = _measure(what, plan, log)
    if as_json:
        show_json(content)
    else:
        show(*_screen(content))


@dataclass(frozen=True)
class Plan:
    """How to measure: paired rounds, CPU threads, the weights of a bundle, torch.compile too."""

    rounds: int
    threads: int
    checkpoint: Path | None
    compile_torch: bool


@dataclass(frozen=True)
class Subject:
    """What is measured.

    files: by the name that tables call them. reference: timm's tower, L2-normalised; None where its weights are not
    available. photo: as timm's tower takes it; image: as the files do. notes: what is to be said.
    """

    files: dict[str, Path]
    reference: Any
    photo: "np.ndarray"
    image: "np.ndarray"
    notes: list[str]


def _measure(what: str, plan: Plan, log: Callable[[str], None]) -> dict[str, Any]:
    from statistics import median
    from tempfile import TemporaryDirectory

    from pecore.timing import paired, ratio, spread
    from pecore.validate.gpu_times import times_on_gpu
    from pecore.validate.parity import compare
    from pecore.validate.rules import graph_facts

    with TemporaryDirectory(prefix="pecore-bench-") as folder:
        subject = _subject(what, plan.checkpoint, Path(folder), log)
        runs = _runs(subject, plan, Path(folder), log)
        base = next(iter(runs))
        outputs = {name: run() for name, run in runs.items()}
        log(f"{plan.rounds} rounds of {len(runs)} on {plan.threads} threads")
        times = paired(runs, plan.rounds)
        about = {name: graph_facts(path) for name, path in subject.files.items()}
        on_gpu, said = times_on_gpu(subject.files, subject.image, plan.rounds, log)

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
    notes = [*subject.notes, *said]
    return {"subject": what, "threads": plan.threads, "rounds": plan.rounds, "base": base, "rows": rows, "notes": notes}


def _subject(what: str, checkpoint: Path | None, folder: Path, log: Callable[[str], None]) -> Subject:
    """A bundle's files and the tower they were made from, or those of a size, converted into `folder`."""
    from functools import partial

    import torch

    from pecore.bundle import open_bundle
    from pecore.convert.load import WeightsSource, load_tower
    from pecore.convert.resources import check_resources
    from pecore.convert.tflite_files import write_files
    from pecore.image import preprocess
    from pecore.precision import PRECISIONS, by_tower
    from pecore.rewrites.tower import rewrite
    from pecore.validate.ablation_variants import TimmTower
    from pecore.validate.photographs import photographs
    from pecore.variants import find

    photo = next(iter(photographs()))[1]
    source = WeightsSource(checkpoint or "synthetic")
    if Path(what).is_dir():
        bundle = open_bundle(what)
        given, size = bundle.vision.input, bundle.variant.image_size
        if bundle.vision.output.name != "embedding":
            raise InputError(f"{what} gives {bundle.vision.output.name}: bench compares embeddings alone")
        if not bundle.variant.is_pe:
            raise InputError(f"{what} is {bundle.variant.size}: bench compares Perception Encoders alone")
        files = {f"LiteRT {precision}": path for precision, path in bundle.files().items()}
        image = preprocess(photo, size, layout=given.layout, value_range=given.range)  # type: ignore[arg-type]
        log("loading weights")
        try:
            loaded = load_tower(what, source)
        except InputError as error:
            return Subject(files, None, preprocess(photo, size), image, [f"Without PyTorch and ONNX: {error}."])
    else:
        try:
            variant = find(what)
        except InputError as error:
            raise InputError(f"{what} is neither a bundle's folder nor a size ({error})") from error
        if not variant.embedding_dim:
            raise InputError(f"{what} gives no embedding: bench compares core towers alone")
        precisions = tuple(name for name, row in PRECISIONS.items() if not row.integer)  # no CPU is fast in int16
        check_resources(variant.parameters, precisions, folder)
        log(f"{variant.size}: loading weights")
        loaded, size = load_tower(what, source), variant.image_size
        image = preprocess(photo, size)
        for row, names in by_tower(precisions):
            make = partial(rewrite, loaded.model, keep_norm_weights=row.keep_norm_weights)
            made = {name: folder / f"{name}.tflite" for name in names}
            write_files(make, {"image": torch.from_numpy(image)}, made, log=log)
        files = {f"LiteRT {name}": folder / f"{name}.tflite" for name in precisions}
    notes = ["Synthetic weights."] * loaded.weights.synthetic
    return Subject(files, TimmTower(loaded.model, torch.float32).eval(), preprocess(photo, size), image, notes)


def _runs(subject: Subject, plan: Plan, folder: Path, log: Callable[[str], None]) -> dict[str, "Baseline"]:
    """Everything that can run here, by name; the first is what the ratios are to: PyTorch, or the first file."""
    import torch

    from pecore.convert import baselines

    runs: dict[str, Baseline] = {}
    if subject.reference is not None:
        runs["PyTorch"] = baselines.eager(subject.reference, subject.photo, plan.threads)
        if plan.compile_torch:
            log("compiling with torch.compile")
            runs["torch.compile"] = baselines.compiled(subject.reference, subject.photo, plan.threads)
    for name, path in subject.files.items():
        log(f"loading {name}")
        runs[name] = baselines.litert(path, subject.image, plan.threads)
    missing = baselines.missing()
    exported = subject.reference is not None and not {"onnx", "onnxscript"} & set(missing)
    if exported and len(missing) < 2:
        log("exporting to ONNX")
        baselines.export_onnx(subject.reference, torch.from_numpy(subject.photo), folder / "timm.onnx")
        if "onnxruntime" not in missing:
            log("loading ONNX Runtime")
            baselines.quantize_onnx(folder / "timm.onnx", folder / "timm_int8.onnx")
            runs["ONNX Runtime fp32"] = baselines.onnx_runtime(folder / "timm.onnx", subject.photo, plan.threads)
            runs["ONNX Runtime int8"] = baselines.onnx_runtime(folder / "timm_int8.onnx", subject.photo, plan.threads)
        if "openvino" not in missing:
            log("loading OpenVINO")
            runs["OpenVINO fp32"] = baselines.openvino(folder / "timm.onnx", subject.photo, plan.threads)
    if missing and subject.reference is not None:
        subject.notes.append(
            f"Not installed: {', '.join(missing)}; `pip install 'pecore-litert[bench]'` adds what is missing."
        )
    return runs


def _screen(content: dict[str, Any]) -> list[Any]:
    title = f"{content['subject']}: {content['threads']} threads, {content['rounds']} paired rounds"
    rows = []
    for row in content["rows"]:
        graph, time = row["graph"], row["ratio"]
        sizes = ("", "", "", "")
        if graph:
            megabytes, gigamacs = graph["bytes"] / 1e6, graph["macs"] / 1e9
            sizes = (str(graph["ops"]), str(graph["tensors"]), f"{megabytes:.1f}", f"{gigamacs:.2f}")
        figures = (f"{time['median']:.2f}", f"{time['low']:.2f} to {time['high']:.2f}", f"{row['ms']['median']:.0f}")
        rows.append((row["name"], *figures, f"{row['cosine']:.6f}", *sizes))
    columns = ("", f">time to {content['base']}'s", ">quartiles", ">ms", ">cosine", ">ops", ">tensors", ">MB", ">GMACs")
    return [table(title, columns, rows), *content["notes"]]
