"""Latency of every way to run the tower on a CPU, paired, with 1 and 2 threads; memory and the way to the first
embedding, each in a process of its own.

    python -m benchmarks.latency --size B16 --rounds 10
    python -m benchmarks.latency --one ours-fp16 --threads 2      one of them alone: seconds and MB, as JSON
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.section import Section, nines, quartiles, transposed
from benchmarks.workspace import GRAPHS, Workspace
from pecore.console import progress
from pecore.errors import InputError
from pecore.image import preprocess
from pecore.timing import paired, ratio, spread
from pecore.validate.parity import compare
from pecore.validate.photographs import photographs
from pecore.variants import find

BASE = "eager"
"""What the ratios are to."""

OTHERS = {
    "eager": "PyTorch eager, timm's tower",
    "compile": "PyTorch, torch.compile",
    "onnx": "ONNX Runtime, timm's tower, fp32",
    "onnx-int8": "ONNX Runtime, dynamic int8",
    "openvino": "OpenVINO, timm's tower, fp32",
}
LABELS = {name: f"LiteRT, {label}" for name, label in GRAPHS.items() if name != "published-fp16"} | OTHERS
NEEDS = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino"}
CACHED = "ours-fp16-cached"
ALONE = {**LABELS, CACHED: "LiteRT, ours, fp16, weight cache"}
"""What is measured in processes of its own."""

REPEATS = 3
LOADS = 3
"""Of a process; the first stands apart. On a virtual machine it also pays for memory that the host has to find: two to
five times a later one, and never the same."""
WARM_RUNS = 5


def photograph(work: Workspace) -> np.ndarray:
    return preprocess(next(iter(photographs()))[1], work.variant.image_size)


def load(name: str, work: Workspace, threads: int, image: np.ndarray) -> Callable[[], np.ndarray]:
    """One of `ALONE`, loaded, to run on `image`."""
    from pecore.convert import baselines

    if name in ("eager", "compile"):
        make = baselines.eager if name == "eager" else baselines.compiled
        return make(work.reference, image, threads)
    file = file_of(name, work)
    if name in NEEDS:
        run_onnx = baselines.openvino if name == "openvino" else baselines.onnx_runtime
        return run_onnx(file, image, threads)
    return baselines.litert(file, image, threads, work.folder / "weight_cache" if name == CACHED else None)


def file_of(name: str, work: Workspace) -> Path:
    """What one of `ALONE` loads, PyTorch apart."""
    return work.file({CACHED: "ours-fp16", "openvino": "onnx"}.get(name, name))


def compare_all(work: Workspace, threads: int, rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Milliseconds, ratio to `BASE` and cosine with PyTorch of each of `LABELS` that runs here."""
    runs: dict[str, Callable[[], np.ndarray]] = {}
    image = photograph(work)
    left_out: dict[str, str] = {}
    for name, label in LABELS.items():
        log(f"{threads} threads: loading {label}")
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            left_out[name] = f"{NEEDS[name]} is not installed"
            continue
        try:
            runs[name] = load(name, work, threads, image)
        except InputError as error:
            left_out[name] = str(error)
    log(f"{threads} threads: {rounds} paired rounds")
    expected = runs[BASE]()
    cosines = {name: compare([expected], [run()]).cosine for name, run in runs.items()}
    times = paired(runs, rounds)
    rows = {
        name: {
            "ms": vars(spread([1000 * t for t in took])),
            "ratio": vars(ratio(took, times[BASE])),
            "cosine": cosines[name],
        }
        for name, took in times.items()
    }
    return {"rows": rows, "left_out": left_out}


def alone(name: str, work: Workspace, threads: int) -> dict[str, float]:
    """In this process: seconds from a file that the system has read before (PyTorch: a module in memory) to the first
    embedding, for the process's first load and for a later one (median); those of a warm run (median); MB resident
    after the first, beyond what the process held with its libraries imported."""
    import pecore.convert.baselines  # noqa: F401

    if name in NEEDS:
        __import__(NEEDS[name])
    image = photograph(work)
    before = resident_mb()
    if name == "eager":
        _ = work.reference
    else:
        file_of(name, work).read_bytes()
    loads, warm, added = [], [], 0.0
    for _ in range(LOADS):
        run: Callable[[], Any] = dict  # lets go of the last one before the next is loaded
        start = time.perf_counter()
        run = load(name, work, threads, image)
        run()
        loads.append(time.perf_counter() - start)
        added = added or resident_mb() - before
    for _ in range(WARM_RUNS):
        start = time.perf_counter()
        run()
        warm.append(time.perf_counter() - start)
    first, *later = loads
    medians = {"first_s": statistics.median(later), "warm_s": statistics.median(warm)}
    return {"very_first_s": first, **medians, "added_mb": added}


def resident_mb() -> float:
    """What this process holds in memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def alone_in_child(name: str, size: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.latency", "--size", size, "--threads", str(threads), "--one", name]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{name} failed: {child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def alone_in_turn(names: Sequence[str], size: str, threads: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Each of `names` in a process of its own, in turn, `REPEATS` times over."""
    alone_in_child(CACHED, size, threads)  # writes the cache
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repeat in range(REPEATS):
        log(f"memory and first embedding, {len(names)} processes, {repeat + 1} of {REPEATS}")
        for name in names:
            found[name].append(alone_in_child(name, size, threads))
    return {
        name: {
            "first_to_warm": vars(spread([f["first_s"] / f["warm_s"] for f in rows])),
            "first_ms": vars(spread([1000 * f["first_s"] for f in rows])),
            "very_first_ms": vars(spread([1000 * f["very_first_s"] for f in rows])),
            "added_mb": statistics.median(f["added_mb"] for f in rows),
        }
        for name, rows in found.items()
    }


def run(size: str, rounds: int, threads: list[int]) -> None:
    work = Workspace(find(size))
    with progress() as log:
        for name in (*GRAPHS, "onnx", "onnx-int8"):
            if not name.startswith("onnx") or find_spec("onnxruntime"):
                log(f"{size}: converting {name}")
                work.file(name)
        compared = {str(count): compare_all(work, count, rounds, log) for count in threads}
        rows = compared[str(threads[-1])]["rows"]
        measured = [name for name in ALONE if name != "compile" and (name in rows or name == CACHED)]
        by_itself = alone_in_turn(measured, size, threads[-1], log)
    content = {"size": size, "rounds": rounds, "base": BASE, "threads": compared}
    results.write("latency", {**content, "repeats": REPEATS, "alone": by_itself})


def latency(contents: results.Contents) -> Section:
    """Time over PyTorch's with quartiles, by kind of CPU and threads, and the cosine with PyTorch on each."""
    columns = [["runs on the CPU", *LABELS.values()]]
    notes = []
    for kind, content in contents["latency"].items():
        columns += over_eager(kind, content, LABELS, quartiles if content["base"] == BASE else None)
        *_, last = (found["rows"] for found in content["threads"].values())
        columns.append([f"{kind}, cosine", *(nines(last[name]["cosine"]) if name in last else "" for name in LABELS)])
        eager = ", ".join(f"{f['rows'][BASE]['ms']['median']:.0f} ms ({n})" for n, f in content["threads"].items())
        left_out = {name: why for found in content["threads"].values() for name, why in found["left_out"].items()}
        missing = "".join(f" Not measured: {LABELS[name]} ({why})." for name, why in left_out.items())
        notes.append(f"{kind}: {content['size']}, {content['rounds']} rounds; PyTorch eager {eager}.{missing}")
    return Section(*transposed(columns), notes)


def over_eager(
    kind: str, content: Mapping[str, Any], names: Iterable[str], shown: Callable[[Any], str] | None = None
) -> list[list[str]]:
    """A column for each number of threads: time over PyTorch eager's, as `shown` writes a paired ratio to it, or as the
    quotient of two medians."""
    columns = []
    for threads, found in content["threads"].items():
        ratios = {name: row["ratio"] for name, row in found["rows"].items()}
        quotients = {name: f"{ratio['median'] / ratios[BASE]['median']:.2f}" for name, ratio in ratios.items()}
        cells = {name: shown(ratio) for name, ratio in ratios.items()} if shown else quotients
        columns.append([f"{kind}, {threads} thread{'s' * (threads != '1')}", *(cells.get(name, "") for name in names)])
    return columns


def first_embedding(contents: results.Contents) -> Section:
    """Loading and the first embedding over a warm run, the very first one's milliseconds, and memory."""
    columns = [["", *ALONE.values()]]
    for kind, content in contents["latency"].items():
        rows = [content["alone"].get(name) for name in ALONE]
        columns.append([f"{kind}: first to warm", *(quartiles(row["first_to_warm"], 1) if row else "" for row in rows)])
        columns.append(["very first, ms", *(quartiles(row["very_first_ms"], 0) if row else "" for row in rows)])
        columns.append(["MB", *(f"{row['added_mb']:.0f}" if row else "" for row in rows)])
    return Section(*transposed(columns))


SECTIONS = {"latency": latency, "first_embedding": first_embedding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", choices=list(ALONE))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(alone(options.one, Workspace(find(options.size)), options.threads[-1])))
    else:
        run(options.size, options.rounds, options.threads)


if __name__ == "__main__":
    main()
