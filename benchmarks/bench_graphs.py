"""Ours beside timm's tower converted as it is: ops, bytes, and XNNPACK latency in paired runs.

    python benchmarks/bench_graphs.py --size B16 --threads 2 --rounds 15

Each round runs every graph once, in turn, so that whatever else the machine does falls on all of them alike; the ratio
is the median over rounds of ours / theirs. Synthetic weights. Both graphs get the same normalisation at the end.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from convert.checkpoint import load
from convert.export import export_tflite
from convert.quantize import quantize
from convert.variants import build_tower, find
from pecore.cli.screen import working
from pecore.runtime import open_model
from rewrites.tower import rewrite
from validate.graph import op_counts, read_graph


class Untouched(nn.Module):
    """timm's tower and the L2 normalisation that our graph has inside."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.model(image), dim=-1)


def graphs(size: str, folder: Path) -> dict[str, Path]:
    variant = find(size)
    model = build_tower(variant, load(variant, "synthetic").state_dict)
    image = {"image": torch.zeros(1, 3, variant.image_size, variant.image_size)}
    files = {name: folder / f"{name}.tflite" for name in ("timm", "ours_fp32", "ours_fp16", "ours_int8", "kept")}
    export_tflite(Untouched(model), image, files["timm"])
    export_tflite(rewrite(model), image, files["ours_fp32"])
    export_tflite(rewrite(model, keep_norm_weights=True), image, files["kept"])
    quantize(files["ours_fp32"], files["ours_fp16"], "fp16")
    quantize(files.pop("kept"), files["ours_int8"], "int8")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with working() as stage:
            stage(f"converting {options.size} four ways")
            files = graphs(options.size, Path(folder))
        models = {name: open_model(path, threads=options.threads) for name, path in files.items()}
        side = models["timm"].inputs["image"].shape[-1]
        image = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in models}
        for round_ in range(options.rounds + 2):
            for name, model in models.items():
                start = time.perf_counter()
                model.run({"image": image})
                if round_ >= 2:  # the first rounds warm the caches
                    times[name].append(time.perf_counter() - start)
        print(f"{options.size}, {options.threads} threads, {options.rounds} paired rounds, synthetic weights")
        print("| graph | ops | MB | time against timm's, median | quartiles |")
        print("|---|---|---|---|---|")
        for name, path in files.items():
            graph = read_graph(path)
            ratios = [own / theirs for own, theirs in zip(times[name], times["timm"])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            counts = sum(op_counts(graph).values())
            print(f"| {name} | {counts} | {graph.size_bytes / 1e6:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
