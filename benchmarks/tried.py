"""What was tried to make the CPU faster and files smaller, measured beside what was kept.

    python -m benchmarks.tried

Layouts: the first blocks of B16, in fp32 or int8 on XNNPACK, in paired rounds, each over ours of the same precision.
int4: whole towers, weights in blocks of 32 with a scale each, over int8.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from torch import Tensor, nn

from benchmarks import results
from benchmarks.workspace import FOLDER, Workspace
from convert.export import export_tflite
from convert.quantize import LEFT_ALONE, quantize
from convert.variants import find
from pecore.graph_facts import facts
from pecore.pairing import paired, ratio
from pecore.runtime import open_model
from pecore.screen import working
from rewrites.attention import Attention
from rewrites.cpu import LARGEST, SlicedLinear, slice_block
from rewrites.fold import Affine, as_linear, from_linear
from rewrites.tower import Tower, rewrite
from validate.parity import compare


class PointwiseConv(nn.Module):
    """A Linear as a convolution of 1x1: `[B, 1, N, C]` -> `[B, 1, N, D]`."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.conv = nn.Conv2d(linear.in_features, linear.out_features, 1, dtype=linear.weight.dtype)
        self.conv.requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(linear.weight[:, :, None, None])
            self.conv.bias.copy_(linear.bias)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ApartAttention(nn.Module):
    """q, k and v by a Linear and a transpose each; each rotated by itself, k transposed where it is needed."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.head_dim, self.rope = attention.heads, attention.head_dim, attention.rope
        parts, dtype = zip(*(t.chunk(3) for t in from_linear(attention.qkv))), attention.qkv.weight.dtype
        self.qkv = nn.ModuleList(as_linear(Affine(*part), dtype) for part in parts)
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens = x.shape[0], x.shape[-2]
        shape = (batch, tokens, self.heads, self.head_dim)
        q, k, v = (linear(x).reshape(shape).permute(0, 2, 1, 3) for linear in self.qkv)
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        context = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).permute(0, 2, 1, 3)
        return self.proj(context.reshape(batch, 1, tokens, -1))


def _each_block(change: Callable[[Any], object], tower: Tower) -> Tower:
    for block in tower.blocks:
        change(block)
    return tower


def _split_qkv(block: Any) -> None:
    block.attn.qkv = SlicedLinear(block.attn.qkv, 3)


def _convolve(block: Any) -> None:
    for module, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
        setattr(module, name, PointwiseConv(getattr(module, name)))


def _apart(block: Any) -> None:
    block.attn = ApartAttention(block.attn)


def _sliced(largest: int) -> Callable[[Tower], Tower]:
    return partial(_each_block, partial(slice_block, largest=largest))


@dataclass(frozen=True)
class Idea:
    """A change of the tower. precision: of the file, and of ours that it is held against. rewrite: how `rewrite` is
    asked for the tower; change: what is then done to it."""

    label: str
    precision: str = "fp32"
    rewrite: Mapping[str, Any] | None = None
    change: Callable[[Tower], Tower] = lambda tower: tower


IDEAS: Mapping[str, Idea] = {
    "fp32": Idea("ours, fp32"),
    "nhwc": Idea("NHWC input: no TRANSPOSE before the stem", rewrite={"input_layout": "nhwc"}),
    "conv": Idea("1x1 convolutions in place of the blocks' Linears", change=partial(_each_block, _convolve)),
    "apart": Idea("q, k and v apart to the end", change=partial(_each_block, _apart)),
    "split-qkv": Idea("q, k and v by a Linear each, concatenated", change=partial(_each_block, _split_qkv)),
    "slices-1.2M": Idea("Linears in slices of 1.2 M weights", change=_sliced(2 * LARGEST)),
    "slices-0.6M": Idea("of 0.6 M weights: fp32-cpu", change=_sliced(LARGEST)),
    "slices-0.3M": Idea("of 0.3 M weights", change=_sliced(LARGEST // 2)),
    "int8": Idea("ours, int8", "int8"),
    "int8-slices": Idea("int8 in slices, as fp32-cpu", "int8", change=_sliced(LARGEST)),
}

INT4: Mapping[str, tuple[str, str]] = {
    "int4": ("int4: every Linear", ".*"),
    "int4-mlp": ("int4: the blocks' MLPs, int8: the rest", ".*mlp.*"),
}
"""Name -> what tables call it, and which Linears have weights of 4 bits."""


def idea_file(work: Workspace, name: str) -> Path:
    """The `.tflite` of an idea."""
    idea, path = IDEAS[name], work.folder / "tried" / f"{name}.tflite"
    path.parent.mkdir(parents=True, exist_ok=True)
    int8 = idea.precision == "int8"
    tower = idea.change(rewrite(work.model, work.scales, keep_norm_weights=int8, **(idea.rewrite or {})))
    image = torch.from_numpy(image_for(idea, work.images[0]))
    whole = path.with_suffix(".fp32") if int8 else path
    export_tflite(tower, {"image": image}, whole)
    if int8:
        quantize(whole, path, "int8")
    return path


def image_for(idea: Idea, image: np.ndarray) -> np.ndarray:
    """`image` `[1, 3, s, s]` as the idea's graph takes it."""
    nhwc = (idea.rewrite or {}).get("input_layout") == "nhwc"
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if nhwc else image


def quantize_int4(source: Path, target: Path, linears: str) -> None:
    """Write `source` (float32) with weights of 4 bits, a scale for every 32, in the Linears whose name matches; int8 in
    the others."""
    manager = recipe_manager.RecipeManager()
    manager.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=8)
    manager.add_dynamic_config(
        linears,
        qtyping.TFLOperationName.FULLY_CONNECTED,
        num_bits=4,
        granularity=qtyping.QuantGranularity.BLOCKWISE_32,
    )
    manager.add_quantization_config(
        LEFT_ALONE, qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
    )
    made = quantizer.Quantizer(str(source), manager.get_quantization_recipe()).quantize()
    made.export_model(str(target), overwrite=True)


def layouts(size: str, depth: int, threads: int, rounds: int, stage: Callable[[str], None]) -> dict[str, Any]:
    """Every idea on the first blocks of a variant: time over ours in its precision, ops, rules, cosine."""
    variant = find(size)
    shallow = replace(variant, depth=depth, artefact=f"{variant.artefact}_{depth}_blocks")
    work = Workspace(shallow, FOLDER)
    files = {}
    for name, idea in IDEAS.items():
        stage(f"{size}, {depth} blocks: {idea.label}")
        files[name] = idea_file(work, name)
    models = {name: open_model(path, threads=threads) for name, path in files.items()}
    runs = {
        name: partial(model.run, {"image": image_for(IDEAS[name], work.images[0])}) for name, model in models.items()
    }
    stage(f"{rounds} paired rounds")
    with torch.no_grad():
        expected = work.reference(torch.from_numpy(work.images[0])).numpy()
    cosines = {name: compare([expected], [run()["embedding"]]).cosine for name, run in runs.items()}
    times = paired(runs, rounds)
    return {
        name: {
            "ratio": vars(ratio(times[name], times[IDEAS[name].precision])),
            "cosine": cosines[name],
            "graph": facts(path),
        }
        for name, path in files.items()
    }


def int4(size: str, threads: int, rounds: int, stage: Callable[[str], None]) -> dict[str, Any]:
    """A whole tower in int8 and with int4: time over int8's, MB, the worst cosine over the photographs."""
    work = Workspace(find(size))
    stage(f"{size}: int8")
    files = {"int8": work.file("ours-int8")}
    for name, (label, linears) in INT4.items():
        stage(f"{size}: {label}")
        files[name] = work.folder / f"{work.variant.artefact}_{name}.tflite"
        quantize_int4(work.file("kept"), files[name], linears)
    models = {name: open_model(path, threads=threads) for name, path in files.items()}
    stage(f"{size}: {rounds} paired rounds")
    with torch.no_grad():
        expected = [work.reference(torch.from_numpy(image)).numpy() for image in work.images]
    times = paired({name: partial(model.run, {"image": work.images[0]}) for name, model in models.items()}, rounds)
    rows = {}
    for name, model in models.items():
        outputs = [model.run({"image": image})["embedding"] for image in work.images]
        rows[name] = {
            "ratio": vars(ratio(times[name], times["int8"])),
            "cosine": compare(expected, outputs).cosine,
            "bytes": files[name].stat().st_size,
        }
    return rows


def run(size: str, depth: int, int4_sizes: Sequence[str], threads: int, rounds: int, int4_rounds: int) -> None:
    content: dict[str, Any] = {"size": size, "depth": depth, "threads": threads, "rounds": rounds}
    with working() as stage:
        content["layouts"] = layouts(size, depth, threads, rounds, stage)
        content["int4"] = {name: int4(name, threads, int4_rounds, stage) for name in int4_sizes}
    results.write("tried", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="B16")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--int4", nargs="*", default=["B16", "L14"], help="sizes to convert whole with int4 weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--int4-rounds", type=int, default=5)
    options = parser.parse_args()
    run(options.size, options.depth, options.int4, options.threads, options.rounds, options.int4_rounds)


if __name__ == "__main__":
    main()
