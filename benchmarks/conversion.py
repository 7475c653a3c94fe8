"""Time and peak memory of a conversion to fp16, with and without `lightweight`, with the gates, beside onnx2tf's; and
what the real delegate says about onnx2tf's graph.

    python -m benchmarks.conversion --sizes T16 S16 B16 L14 --onnx2tf build/onnx2tf/bin/python

Every conversion is a process, from the start of Python to the finished file: imports, weights (synthetic), export,
quantization; with the gates, `convert_pecore.py --no-gpu`. onnx2tf's is two: PyTorch's ONNX exporter, then onnx2tf, in
an environment of its own, as it pins other versions (`make build/onnx2tf/bin/onnx2tf`).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.workspace import FOLDER, Workspace
from pecore.console import working
from pecore.runtime import Arrays, open_model
from pecore.validate.gpu import Verdict, run_on_gpu
from pecore.validate.parity import compare
from pecore.validate.rules import graph_facts as facts
from pecore.variants import find

WAYS = {
    "lightweight": "ours",
    "plain": "ours, without lightweight conversion",
    "gated": "ours, with every gate but the GPU's",
}
ONNX2TF = Path("build/onnx2tf/bin/python")
PICTURES = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""What onnx2tf downloads to check itself with, unless it lies there already: noise does as well."""
TIMEOUT_S = 1200


def measured(command: list[str], folder: Path) -> dict[str, float] | str:
    """Run a command; its seconds and peak GB, or the last line it wrote where it failed or took `TIMEOUT_S`.

    The peak is the largest resident set of the process, or of one it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"}
    log = folder / "log.txt"
    start = time.perf_counter()
    with log.open("wb") as out:
        wrapped = ["timeout", str(TIMEOUT_S), *command]
        child = subprocess.Popen(wrapped, stdout=out, stderr=out, cwd=folder, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"exit code {child.returncode}: {words[-1] if words else 'nothing said'}"[:300]
    return {"seconds": seconds, "peak_gb": usage.ru_maxrss / 1e6}


def whole_file(size: str) -> Path:
    """The float32 file that a conversion of ours leaves."""
    return FOLDER / "conversion" / f"{size}_fp32.tflite"


def ours(size: str, way: str, folder: Path) -> None:
    """In this process: the whole of a conversion to fp16, gates left out."""
    import torch

    from pecore.convert.export import export_tflite
    from pecore.convert.quantize import quantize
    from pecore.convert.synthetic import synthetic_state_dict
    from pecore.convert.towers import build_tower
    from pecore.rewrites.tower import rewrite

    variant = find(size)
    model = build_tower(variant, synthetic_state_dict(variant))
    image = {"image": torch.zeros(1, 3, variant.image_size, variant.image_size)}
    source = folder / whole_file(size).name
    export_tflite(rewrite(model), image, source, lightweight=way == "lightweight")
    quantize(source, folder / f"{size}_fp16.tflite", "fp16")


def onnx(size: str, folder: Path) -> None:
    """In this process: timm's tower to ONNX. Its last step is written out, as onnx2tf stumbles over ReduceL2."""
    import torch

    from pecore.convert.baselines import export_onnx
    from pecore.rewrites.norm import UnitNorm

    work = Workspace(find(size))
    side = work.variant.image_size
    tower = torch.nn.Sequential(work.model, UnitNorm())
    export_onnx(tower, torch.zeros(1, 3, side, side), folder / f"{size}.onnx")


def one(size: str, way: str, folder: Path) -> dict[str, float] | str:
    """A conversion of ours, or `onnx`, in a child."""
    root = Path(__file__).resolve().parents[1]
    if way == "gated":
        script = str(root / "convert_pecore.py")
        options = ["--size", size, "--weights", "synthetic", "--no-gpu"]
        return measured([sys.executable, script, *options], folder)
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from benchmarks.conversion import main; main()"
    return measured([sys.executable, "-c", code, "--one", way, "--sizes", size], folder)


def by_onnx2tf(size: str, python: Path, folder: Path) -> dict[str, Any]:
    """Both steps; together they take the sum of the seconds and the larger of the peaks."""
    exported = one(size, "onnx", folder)
    if isinstance(exported, str):
        return {"failed": f"ONNX export: {exported}"}
    np.save(folder / PICTURES, np.random.default_rng(0).uniform(0, 1, (20, 128, 128, 3)).astype(np.float32))
    command = [str(python.parent.absolute() / "onnx2tf"), "-i", f"{size}.onnx", "-o", "out"]
    made = measured(command, folder)
    if isinstance(made, str):
        return {"failed": f"onnx2tf: {made}", "onnx": exported}
    together = {
        "seconds": exported["seconds"] + made["seconds"],
        "peak_gb": max(exported["peak_gb"], made["peak_gb"]),
    }
    return {**together, "onnx": exported, "onnx2tf": made}


def judged(path: Path, work: Workspace) -> dict[str, Any]:
    """A graph of onnx2tf's: its size, what the rules find, whether the CPU's answer is PyTorch's and what the delegate
    makes of it."""
    import torch

    model = open_model(path)
    name, spec = next(iter(model.inputs.items()))
    images = work.images[:2]
    with torch.no_grad():
        expected = [work.reference(torch.from_numpy(image)).numpy() for image in images]
    nhwc = spec.shape[-1] == 3
    inputs: list[Arrays] = [{name: image.transpose(0, 2, 3, 1).copy() if nhwc else image} for image in images]
    cpu = [model.run(arrays) for arrays in inputs]
    run = run_on_gpu(path, inputs, "fp16", cpu_outputs=cpu)
    on_gpu = None
    if run.verdict is Verdict.RAN:
        outputs = [next(iter(arrays.values())) for arrays in run.outputs]
        on_gpu = figures(expected, outputs)
    return {
        **facts(path),
        "cpu": figures(expected, [next(iter(arrays.values())) for arrays in cpu]),
        "gpu": {
            "verdict": run.verdict.value,
            "detail": run.detail.split("; install")[0],
            "ops_on_gpu": run.ops_on_gpu,
            "refused": {r.op: r.reason.split(". ")[0].rstrip(".") for r in reversed(run.refused)},  # one reason each
            "figures": on_gpu,
        },
    }


def figures(expected: list[np.ndarray], actual: list[np.ndarray]) -> dict[str, float | None]:
    """Of `validate.parity`, for JSON: NaN as None."""
    return {k: None if np.isnan(v) else v for k, v in compare(expected, actual).as_dict().items()}


def run(sizes: list[str], plain: list[str], gated: list[str], against: list[str], python: Path) -> None:
    content: dict[str, Any] = {"sizes": {}, "onnx2tf_version": version_of(python)}
    with working() as stage:
        for size in sizes:
            rows: dict[str, Any] = {}
            for way, label in WAYS.items():
                if size not in {"plain": plain, "gated": gated}.get(way, sizes):
                    continue
                stage(f"{size}: {label}")
                rows[way] = one(size, way, FOLDER / "conversion")
            if size in against and content["onnx2tf_version"]:
                stage(f"{size}: onnx2tf")
                folder = FOLDER / "onnx2tf"
                rows["onnx2tf"] = by_onnx2tf(size, python, folder)
                if "failed" not in rows["onnx2tf"]:
                    stage(f"{size}: judging onnx2tf's graph")
                    rows["onnx2tf"]["graph"] = judged(folder / "out" / f"{size}_float32.tflite", Workspace(find(size)))
            content["sizes"][size] = rows
    results.write("conversion", content)


def version_of(python: Path) -> str | None:
    """onnx2tf's in that environment; None where there is none."""
    if not python.exists():
        return None
    code = "from importlib.metadata import version; print(version('onnx2tf'))"
    child = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return child.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = ["T16", "S16", "B16", "L14"]
    parser.add_argument("--sizes", nargs="+", default=sizes)
    parser.add_argument("--plain", nargs="*", default=sizes, help="sizes to convert without lightweight")
    parser.add_argument("--gated", nargs="*", default=["B16"], help="sizes to convert with gates")
    parser.add_argument("--against", nargs="*", default=["T16"], help="sizes to give to onnx2tf")
    parser.add_argument("--onnx2tf", type=Path, default=ONNX2TF, help="Python of the environment that has it")
    parser.add_argument(
        "--one",
        choices=["lightweight", "plain", "onnx"],
        help="this one alone, in this process, into the folder one is in",
    )
    options = parser.parse_args()
    if options.one == "onnx":
        onnx(options.sizes[0], Path())
    elif options.one:
        ours(options.sizes[0], options.one, Path())
    else:
        run(options.sizes, options.plain, options.gated, options.against, options.onnx2tf)


if __name__ == "__main__":
    main()
