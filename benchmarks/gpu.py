"""Latency on a real Vulkan GPU, in one command of under ten minutes: ours, the published structure, and ours with one
rewrite taken out.

    make gpu-bench                       # T16, S16 and B16; graphs are made here, nothing is downloaded
    make gpu-bench GPU_BENCH=--quick     # 2 blocks of T16 at 96 pixels, to build/bench/quick: whether it works

Each size runs in a process of its own, in which all graphs are loaded and run in turn. Exit code 2 where there is no
adapter. A software driver is measured too, and named as one: its times are no GPU's.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.dispatches import count
from benchmarks.section import Section, nines, quartiles
from benchmarks.workspace import FOLDER, GRAPHS, Workspace
from pecore.console import progress
from pecore.errors import InputError
from pecore.files import write_json
from pecore.runtime import Model, open_model
from pecore.timing import paired, ratio, spread
from pecore.validate.ablation_variants import ROWS
from pecore.validate.gpu import NO_ADAPTER_REMEDY, Adapter, probe
from pecore.validate.parity import compare
from pecore.variants import find

BASE = "published-fp16"
"""What the ratios are to."""
COMPARED = ("ours-fp16", "ours-int8", "ours-fp32", "published-fp16", "published")
ABLATED = "T16"
"""The size whose rewrites are taken out, those that leave a graph that runs."""
TAKEN_OUT = ("matmul", "transpose", "norm", "norm-published", "eps", "projection", "affine")
QUICK = ("ours-fp16", "published-fp16", "eps")
LABELS = {name: GRAPHS[name] for name in COMPARED} | {
    row.name: f"ours, fp16, without: {row.out}" for row in ROWS if row.name in TAKEN_OUT
}
NO_REAL_ADAPTER = "No real adapter was available to measure: there are no results in `benchmarks/results/ADAPTER/`."


def file_of(work: Workspace, name: str) -> Path:
    """The `.tflite` of one of `LABELS`, made when it is first asked for."""
    return work.file(name) if name in GRAPHS else work.without(name)


def workspace(size: str, quick: bool) -> Workspace:
    """A size's graphs; of its first two blocks and small images where it is to be quick."""
    variant = find(size)
    return Workspace(replace(variant, depth=2, image_size=96), FOLDER / "quick") if quick else Workspace(variant)


def measure(work: Workspace, names: Sequence[str], rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """In this process: the first load of each graph in `names`, and then all of them in turn."""
    size = work.variant.size
    inputs = {"image": work.images[0]}
    models: dict[str, Model] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        log(f"{size}: {LABELS[name]}")
        path = file_of(work, name)
        start = time.perf_counter()
        try:
            model = open_model(path, backend="gpu")
            loaded = time.perf_counter()
            found = _first(model.run(inputs))
        except InputError as error:
            rows[name] = {"refused": str(error)}
            continue
        first = {"load_s": loaded - start, "first_s": time.perf_counter() - start}
        expected = _first(open_model(path).run(inputs))
        rows[name] = {**first, "correlation": compare([expected], [found]).correlation}
        models[name] = model
    log(f"{size}: {rounds} paired rounds")
    times = paired({name: lambda model=model: model.run(inputs) for name, model in models.items()}, rounds)
    for name, took in times.items():
        rows[name]["ms"] = vars(spread([1000 * t for t in took]))
        if BASE in times:
            rows[name]["ratio"] = vars(ratio(took, times[BASE]))
    return rows


def _first(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(arrays.values()))


def in_child(size: str, rounds: int, quick: bool) -> dict[str, Any]:
    """`measure` in a process of its own, which a driver may take down."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", size, "--rounds", str(rounds)]
    command += ["--quick"] * quick
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        raise InputError(f"{size} ended with exit code {child.returncode} on this adapter; its last words are above")
    return json.loads(child.stdout.splitlines()[-1])


def with_kernels(work: Workspace, rows: dict[str, Any]) -> None:
    """Add what each graph launches, where the layer that counts can be compiled."""
    for name, row in rows.items():
        if "refused" not in row:
            row["kernels"] = count(file_of(work, name)).kernels


def slug(adapter: Adapter) -> str:
    """The name of an adapter's folder: `NVIDIA H200` -> `nvidia-h200`, `llvmpipe (LLVM 15.0.6, 256 bits)` ->
    `llvmpipe`."""
    return re.sub(r"[^a-z0-9]+", "-", adapter.name.split("(")[0].lower()).strip("-")


def run(sizes: Sequence[str], rounds: int, quick: bool) -> None:
    """Measure `sizes` and write ADAPTER/gpu.json, again after each size: a machine may be lent for minutes."""
    adapter = probe()
    if adapter is None:
        raise InputError(f"no Vulkan adapter that ML Drift accepts; {NO_ADAPTER_REMEDY}")
    kind = "a software driver, whose times are no GPU's" if adapter.software else adapter.kind
    print(f"{adapter.name}: {kind}; driver {adapter.driver}", flush=True)
    content: dict[str, Any] = {"environment": results.environment(), "adapter": vars(adapter), "rounds": rounds}
    target = (FOLDER / "quick" if quick else results.RESULTS) / slug(adapter)
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for size in sizes:
        found[size] = in_child(size, rounds, quick)
        try:
            with_kernels(workspace(size, quick), found[size])
        except InputError as error:
            print(f"kernels are not counted: {error}", file=sys.stderr)
        write_json(target / "gpu.json", {**content, "sizes": found})
        print(Section(*_table(size, found[size])).markdown(), flush=True)


def _table(size: str, rows: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    headings = [size, "ms", f"over {GRAPHS[BASE]}", "first load, s", "kernels", "correlation"]
    return headings, [[LABELS[name], *_cells(row)] for name, row in rows.items()]


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "refused" in row:
        return ["refused", "", "", "", ""]
    over = quartiles(row["ratio"]) if "ratio" in row else ""
    kernels = str(row.get("kernels", ""))
    return [f"{row['ms']['median']:.1f}", over, f"{row['first_s']:.1f}", kernels, nines(row["correlation"])]


def gpu(contents: results.Contents) -> Section:
    """Every adapter's sizes under one another, or the sentence that there was none."""
    rows, notes = [], []
    headings: list[str] = []
    for content in contents.get("gpu", {}).values():
        adapter = content["adapter"]
        for size, found in content["sizes"].items():
            head, lines = _table(size, found)
            headings = ["adapter, size", "graph", *head[1:]]
            rows += [[f"{adapter['name']}, {size}", *line] for line in lines]
        notes.append(f"{adapter['name']}: {adapter['kind']}, driver {adapter['driver']}; {content['rounds']} rounds.")
    return Section(headings, rows, notes or [NO_REAL_ADAPTER])


SECTIONS = {"gpu": gpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["T16", "S16", "B16"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="2 blocks of T16, 2 rounds, to build/bench/quick")
    parser.add_argument("--one", metavar="SIZE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with progress() as log:
            names = QUICK if options.quick else [*COMPARED, *(TAKEN_OUT if options.one == ABLATED else ())]
            rows = measure(workspace(options.one, options.quick), names, options.rounds, log)
        print(json.dumps(rows), flush=True)
        os._exit(0)  # a driver that crashes while it is torn down must not look like a failed run
    sizes, rounds = (["T16"], 2) if options.quick else (options.sizes, options.rounds)
    try:
        run(sizes, rounds, options.quick)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
