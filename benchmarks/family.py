"""Every variant's first blocks through the whole conversion: exactness, graph, CPU, and the real delegate.

    python -m benchmarks.family [--only spatial-b16,lang-l14,others,linears] [--depth 2]
    python -m benchmarks.family --bundles out/pe_core_base_224 out/pe_spatial_small_512
    python -m benchmarks.family --eva [NAME ...]
    python -m benchmarks.family --eva-whole vit_tiny_patch16_dinov3_qkvb vit_small_patch16_dinov3_qkvb

Writes the figures to pecore/family.json, which `pecore list` shows (rows of variants left out by --only stay), and
makes docs/family.md from it. With --bundles nothing is converted: the figures of whole towers come from the reports of
bundles that `pecore convert --weights synthetic` has made.
Synthetic weights. L and G run at 224 pixels, which a software driver gets through; the ops are the same. The tiling
towers are their twins in all but the weights and take their figures. `others` are other outputs, batches and towers of
timm's, at a few patches. --eva measures two blocks of every entry point of timm's Eva class (or of those named) at
their own width; --eva-whole all blocks, at their own image size. Massive activations are 400. `linears` are single
Linears on nine rows, because the widest towers lose more in fp16 than the gate allows.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch

from pecore.bundle import MANIFEST, REFERENCE, REPORT
from pecore.console import progress
from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.pipeline import VisionOptions, convert
from pecore.convert.quantize import PRECISIONS, quantize
from pecore.convert.synthetic import fill, normal
from pecore.convert.timm_tower import eva_names, reduced
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites import Output, rewrite
from pecore.rewrites.tower import default_output
from pecore.runtime import open_model
from pecore.validate import exactness, gates, headroom, report
from pecore.validate.checks import Check
from pecore.validate.photographs import photographs
from pecore.validate.reference import load_reference
from pecore.validate.rules import runtimes
from pecore.variants import VARIANTS, Variant, find

ROOT = Path(__file__).parents[1]
JSON, PAGE = ROOT / "pecore" / "family.json", ROOT / "docs" / "family.md"
AMPLITUDE = 400.0  # of massive activations
LARGEST_AT_FULL_SIZE = 768  # channels
REDUCED = 224  # pixels, for wider ones
NAMES = {"size", "artefact", "timm_name", "open_clip_name"}  # what twins differ in


def measure(variant: Variant, depth: int) -> dict[str, Any]:
    """The figures of one variant's first blocks."""
    side = variant.image_size if variant.width <= LARGEST_AT_FULL_SIZE else REDUCED
    small = replace(variant, depth=depth, image_size=side)
    with tempfile.TemporaryDirectory() as folder, progress() as stage:
        options = VisionOptions(precisions=("fp16", "fp32"), gpu="skip")
        result = convert(small, load(small, "synthetic"), Path(folder, "bundle"), options, stage)
        found = {
            (c.gate, name): c
            for c in result.checks
            for name in ("fp16", "fp32")
            if c.subject.endswith(f"{name}.tflite")
        }
        exact = next(c for c in result.checks if c.gate == "exact")
        path = next(result.folder.glob("*_fp16.tflite"))
        model = open_model(path)
        samples, _ = load_reference(result.folder / REFERENCE, model.inputs, model.outputs)
        outputs = [model.run(samples[0])]
        on_gpu = gates.gpu_gates(path, "fp16", samples[:1], outputs, "auto", stage)
    wanted = ("verdict", "ops", "ops_on_gpu", "correlation", "norm_error", "relative_diff")
    return {
        "depth": depth,
        "image_size": side,
        "exact": exact.figures["max_abs_diff"],
        "ops": found["graph", "fp16"].figures["ops"],
        "findings": len(found["graph", "fp16"].figures["findings"]),
        "cpu fp32": {k: found["cpu", "fp32"].figures[k] for k in ("cosine", "norm_error", "relative_diff")},
        "gpu": [{"backend": c.backend, **{k: c.figures.get(k) for k in wanted}} for c in on_gpu],
        "passed": result.passed and all(c.outcome == "passed" for c in on_gpu),
    }


def tower(name: str, amplitude: float = 400.0, **options: Any) -> Any:
    """A Perception Encoder of two blocks on 4 x 4 patches, or another of timm's towers, with synthetic weights."""
    if not name.startswith(("eva", "vit")):
        variant = replace(find(name), depth=2, image_size=4 * find(name).patch, **options)
        return build_tower(variant, load(variant, "synthetic", amplitude=amplitude).state_dict)
    return fill(timm.create_model(name, pretrained=False, depth=2, **options).eval().requires_grad_(False))


OTHERS: dict[str, tuple[str, dict[str, Any], Output | None, int]] = {
    # what is new: tower, its options, output, batch
    "features at an amplitude of 20000": ("spatial-t16", {"amplitude": 20000.0}, None, 1),
    "features through the final norm": ("core-t16", {}, Output("features"), 1),
    "embedding, and features of the first block": ("core-t16", {}, Output("both", 0), 1),
    "a classifier of 10 on a core tower": ("core-t16", {"embedding_dim": 10}, Output("logits"), 1),
    "a classifier of 10 on a spatial tower": ("spatial-t16", {"embedding_dim": 10}, None, 1),
    "a batch of 3": ("core-t16", {}, None, 3),
    "features of a batch of 2": ("spatial-t16", {}, None, 2),
    "SwiGLU, biases on q and v alone, mean pooling, fc_norm": (
        "eva02_tiny_patch14_224",
        {"img_size": 56, "num_classes": 10},
        None,
        1,
    ),
    "RoPE by halves, registers, LayerScale, aligned SwiGLU": (
        "vit_small_plus_patch16_dinov3",
        {"img_size": 64, "dynamic_img_size": False},
        None,
        1,
    ),
}


def measure_other(name: str, options: dict[str, Any], output: Output | None, batch: int) -> dict[str, Any]:
    """The figures of one of `OTHERS`, in fp16."""
    model = tower(name, **options)
    output, side = output or default_output(model), model.patch_embed.img_size[0]
    shots = [torch.from_numpy(preprocess(image, side)) for _, image in photographs()]
    scales, _ = headroom.fit_scales(model, shots, output)
    image = torch.cat(shots[:batch])
    with tempfile.TemporaryDirectory() as folder, progress() as stage:
        stage(f"{name}: {output}")
        source, path = Path(folder, "fp32.tflite"), Path(folder, "fp16.tflite")
        export_tflite(rewrite(model, scales, output=output), {"image": image}, source, output.names)
        quantize(source, path, "fp16")
        inputs = [{"image": image.numpy()}]
        check = gates.gpu_gate(path, "fp16", "fp16", inputs, [open_model(path).run(inputs[0])])
        graph = gates.graph_gate(path, runtimes()[-1])
    return {
        "tower": name,
        "output": asdict(output),
        "batch": batch,
        "exact": exactness.max_difference(model, scales, image, output=output),
        "ops": graph.figures["ops"],
        "ops_on_gpu": check.figures["ops_on_gpu"],
        "findings": len(graph.figures["findings"]),
        "correlation": least_correlation(check),
        "norm_error": check.figures.get("norm_error"),
    }


def least_correlation(check: Check) -> float | None:
    """Of a run's outputs; None where it did not run, or an output is all zeros."""
    found = [value for key, value in check.figures.items() if key.endswith("correlation")]
    return min(found) if found and not any(map(math.isnan, found)) else None


def measure_eva(model: Any) -> dict[str, Any]:
    """The figures of a tower of timm's Eva class, embedding and features, in fp16 and fp32."""
    output = Output("both")
    height, width = model.patch_embed.img_size
    shots = [preprocess(image, max(height, width))[..., :height, :width] for _, image in photographs()]
    images = [torch.from_numpy(shot.copy()) for shot in shots[:3]]
    scales, reductions = headroom.fit_scales(model, images, output)
    least = headroom.min_headroom(reductions)
    exact = exactness.max_difference(model, scales, images[0], output)
    with tempfile.TemporaryDirectory() as folder, progress() as stage:
        stage("converting")
        tower = rewrite(model, scales, output=output)
        expected = [t.numpy() for t in tower(images[0])]
        source, path = Path(folder, "fp32.tflite"), Path(folder, "fp16.tflite")
        export_tflite(tower, {"image": images[0]}, source, output.names)
        del tower
        inputs = [{"image": images[0].numpy()}]
        on_cpu = list(open_model(source).run(inputs[0]).values())
        quantize(source, path, "fp16")
        source.unlink()
        outputs = [open_model(path).run(inputs[0])]
        stage("on the delegate")
        gpu = gates.gpu_gates(path, "fp16", inputs, outputs, "auto", stage)
        graph = gates.graph_gate(path, runtimes()[-1])
        size = path.stat().st_size
    figures = []
    for check in gpu:
        kept = {k: check.figures.get(k) for k in ("verdict", "ops_on_gpu", "norm_error")}
        figures.append({**kept, "backend": check.backend, "correlation": least_correlation(check)})
    return {
        "depth": len(model.blocks),
        "image_size": [height, width],
        "width": model.embed_dim,
        "exact": exact,
        "headroom": least.headroom,
        "least": least.name,
        "ops": graph.figures["ops"],
        "findings": len(graph.figures["findings"]),
        "bytes": size,
        "cpu fp32": max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(on_cpu, expected)),
        "gpu": figures,
        "passed": all(check.outcome == "passed" for check in gpu) and exact <= exactness.LARGEST_DIFFERENCE,
    }


LINEARS = ((768, 3072), (1536, 6144), (2432, 9728), (4096, 8192), (4096, 12288))
"""Inputs and outputs of single Linears: those of towers, up to DINOv3 7B's qkv."""


class OneLinear(torch.nn.Linear):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image)


def measure_linear(inputs: int, outputs: int) -> dict[str, Any]:
    """A Linear of random weights alone, fp16 weights, on the delegate in fp16 and fp32."""
    rows = normal("rows", (1, 1, 9, inputs), 0)
    linear = OneLinear(inputs, outputs).requires_grad_(False)
    linear.weight.copy_(normal("weight", (outputs, inputs), 0) / inputs**0.5)
    with tempfile.TemporaryDirectory() as folder, progress() as stage:
        source, path = Path(folder, "fp32.tflite"), Path(folder, "fp16.tflite")
        export_tflite(linear, {"image": rows}, source, ("embedding",))
        quantize(source, path, "fp16")
        given = [{"image": rows.numpy()}]
        checks = gates.gpu_gates(path, "fp16", given, [open_model(path).run(given[0])], "auto", stage)
    return {"inputs": inputs, "outputs": outputs, "correlations": [least_correlation(check) for check in checks]}


def tower_width(name: str) -> int:
    with torch.device("meta"):
        tower: Any = timm.create_model(name, pretrained=False)
    return int(tower.embed_dim)


def eva_rows(content: dict[str, Any], names: Sequence[str]) -> None:
    """Two blocks of each of these entry points; twins, which differ in image size or weights, share their figures."""
    twins: dict[str, dict[str, Any]] = {}
    for name in sorted(names, key=tower_width):
        small = reduced(name, (3, 3))
        shapes = [(k, tuple(t.shape)) for k, t in small.state_dict().items()]
        make = repr((small, small.global_pool, type(small.rope).__name__, shapes))
        if make not in twins:
            print(name, flush=True)
            twins[make] = measure_eva(fill(small, AMPLITUDE))
        content.setdefault("eva", {})[name] = twins[make]
        write(content)


def page(content: dict[str, Any]) -> str:
    """docs/family.md."""
    lines = [
        "# The family",
        "",
        "Every Perception Encoder vision tower that timm has, and the one trained here (`drawings-t16`). Each converts"
        " with",
        "`pecore convert --variant NAME` (core also with `--size B16`); the figures below are those of its first"
        " blocks, at the",
        "image size given, with synthetic weights.",
        "",
        "| variant | parameters | pixels | gives | measured | exact | ops | CPU fp32 | GPU fp16 | norm | GPU fp32 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        row = content["rows"].get(variant.name)
        given = f"{variant.output} {variant.output_shape}"
        about = [f"`{variant.name}`", f"{variant.parameters / 1e6:,.1f} M", str(variant.image_size), given]
        lines.append(f"| {' | '.join([*about, *(cells(row) if row else ['not measured', *[''] * 6])])} |")
    versions = ", ".join(f"{k} {v}" for k, v in content["versions"].items())
    lines += [
        "",
        "- *measured*: blocks and pixels. L and G ran at 224 pixels: the same ops on fewer tokens, which a software",
        "  driver gets through. The tiling towers are their twins in all but the weights and show their figures.",
        "- *exact*: max |diff| to timm in float64, of features relative to the largest.",
        "- *ops*: of the fp16 graph; no rule of `validate/rules` finds anything in any of them, unless it says so.",
        "- *CPU fp32*: the float32 file on LiteRT's CPU against PyTorch, largest |diff| over the largest element.",
        "- *GPU fp16*, *GPU fp32*: correlation of the fp16 file on ML Drift with the same on the CPU, every op on the",
        "  GPU; *norm*: |norm / norm on the CPU - 1| in fp16.",
    ]
    lines += ["", *whole_table(content)]
    lines += [
        "",
        "## Other outputs and towers",
        "",
        "Two blocks on 4 x 4 patches, in fp16 on ML Drift; of two outputs the lower correlation, the first one's norm.",
        "",
        "| what is new | tower | exact | ops | on the GPU | correlation | norm |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, row in content.get("others", {}).items():
        figures = [f"{row['exact']:.0e}", str(row["ops"]), str(row["ops_on_gpu"])]
        figures += [f"{row['correlation']:.7f}", f"{row['norm_error']:.0e}"] if row["correlation"] else ["", ""]
        lines.append(f"| {' | '.join([what, '`' + row['tower'] + '`', *figures])} |")
    lines += ["", *eva_tables(content)]
    lines += ["", f"`{content['command']}`: {content['backend']}; {versions}.", ""]
    return "\n".join(lines)


def eva_tables(content: dict[str, Any]) -> list[str]:
    """The tables of timm's Eva class."""
    rows = content.get("eva", {})
    names = eva_names()
    missing = [f"`{name}`" for name in names if name not in rows]
    right = sum(rows[name]["passed"] for name in names if name in rows)
    resident = sum(all(run["ops_on_gpu"] == row["ops"] for run in row["gpu"]) for row in rows.values())
    lines = [
        "## timm's Eva class",
        "",
        f"{resident} of {len(names)} entry points run every op on ML Drift, {right} of them within the gates.",
        "Embedding (the pooled tokens, where the tower has no projection) and patch map of two blocks on 3 x 3",
        "patches, at the tower's own width; synthetic weights, massive activations of 400. Where blocks differ",
        "(sapiens2), one of each kind. Twins that differ in image size or weights share their figures",
        "(`python -m benchmarks.family --eva`).",
        "",
        *EVA_HEAD,
        *(eva_line(name, rows[name]) for name in names if name in rows),
        "",
        *(
            [f"Exact in float64 (`tests/rewrites/test_eva.py`), not run on the delegate yet: {', '.join(missing)}.", ""]
            * bool(missing)
        ),
        *too_wide(content),
        "- *exact*: max |diff| to timm in float64, relative where an output's largest element is above 1.",
        "- *headroom*: 65504 over the largest value that a reduction forms, and which one.",
        "- *CPU fp32*, *GPU fp16*, *norm*, *GPU fp32*: as above; of two outputs the lower correlation.",
        "",
        "All blocks, the tower's own image size, synthetic weights as above (`python -m benchmarks.family --eva-whole"
        " NAME ...`):",
        "",
        *EVA_HEAD,
        *(eva_line(name, row) for name, row in content.get("eva whole", {}).items()),
    ]
    return lines


def too_wide(content: dict[str, Any]) -> list[str]:
    """What the page says of the towers whose figures the GPU gate does not accept: empty, or lines."""
    rows = {name: row for name, row in content.get("eva", {}).items() if not row["passed"]}
    if not rows:
        return []
    lines = [
        f"The gate accepts 0.9999, and refuses {', '.join(f'`{name}`' for name in rows)}:",
        "right in float64 and on the CPU, every op on the GPU. In fp16 a Linear's sum is itself an fp16 number,",
        "rounded thousands of times in the widest towers. And weights of more than 128 MiB, the largest buffer that",
        "WebGPU promises, come out as zeros, without an error. One Linear alone, fp16 weights in the file, on nine",
        "rows (`python -m benchmarks.family --only linears`):",
        "",
        "| inputs | outputs | MiB in fp16 | GPU fp16 | MiB in fp32 | GPU fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for row in content.get("linears", []):
        size = row["inputs"] * row["outputs"] / 2**20
        fp16, fp32 = (f"{c:.7f}" if c else "zeros" for c in row["correlations"])
        lines.append(f"| {row['inputs']} | {row['outputs']} | {2 * size:.0f} | {fp16} | {4 * size:.0f} | {fp32} |")
    return [*lines, ""]


EVA_HEAD = (
    "| entry point | blocks | width | pixels | exact | headroom | ops | on the GPU | CPU fp32 | GPU fp16 | norm |"
    " GPU fp32 |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def eva_line(name: str, row: dict[str, Any]) -> str:
    fp16, fp32 = (*row["gpu"], {}, {})[:2]
    ops = f"{row['ops']}" + (f" ({row['findings']} findings)" if row["findings"] else "")
    height, width = row["image_size"]
    cells = [
        f"`{name}`",
        str(row["depth"]),
        str(row["width"]),
        f"{height} x {width}",
        f"{row['exact']:.0e}",
        f"{row['headroom']:.0f}x ({row['least']})",
        ops,
        str(fp16.get("ops_on_gpu") or ""),
        f"{row['cpu fp32']:.0e}",
        shown(fp16),
        f"{fp16['norm_error']:.0e}" if fp16.get("norm_error") is not None else "",
        shown(fp32),
    ]
    return f"| {' | '.join(cells)} |"


def shown(run: dict[str, Any]) -> str:
    """A run's correlation, or why there is none."""
    if run.get("correlation"):
        return f"{run['correlation']:.7f}"
    return "zeros" if run.get("verdict") == "ran" else str(run.get("verdict") or "not run")


def whole(folder: Path) -> tuple[str, dict[str, Any]]:
    """The variant of a bundle and the figures of its conversion, at full depth and size."""
    manifest, made = (json.loads((folder / name).read_text("utf-8")) for name in (MANIFEST, REPORT))
    variant = Variant(**manifest["variant"])
    if replace(variant, trained_size=None) not in [replace(v, trained_size=None) for v in VARIANTS]:
        raise SystemExit(f"{folder} holds no whole variant")
    files: dict[str, Any] = {f["precision"]: {k: f[k] for k in ("bytes", "ops")} for f in manifest["files"].values()}
    for check in made["gates"]:
        precision = next((f["precision"] for name, f in manifest["files"].items() if name == check["subject"]), None)
        if precision and check["gate"] == "cpu":
            files[precision] |= {k: check["figures"][k] for k in ("cosine", "relative_diff")}
        if precision and check["gate"] == "gpu" and check["outcome"] != "skipped":
            compute = "fp16" if " fp16" in check["backend"] else "fp32"
            files[precision][f"gpu {compute}"] = check["figures"].get("correlation")
    return variant.name, {
        "exact": max(c["figures"]["max_abs_diff"] for c in made["gates"] if c["gate"] == "exact"),
        "images": len(made["images"]),
        "files": {p: files[p] for p in PRECISIONS if p in files},
    }


def whole_table(content: dict[str, Any]) -> list[str]:
    """The table of what was converted whole."""
    lines = [
        "## Whole towers",
        "",
        "Every block, the trained image size, synthetic weights (`pecore convert --variant NAME --weights synthetic`):",
        "each file on LiteRT's CPU against PyTorch in float32 on photographs.",
        "",
        "| variant | exact | file | MB | ops | cosine | relative difference | ML Drift fp16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        row = content.get("whole", {}).get(variant.name)
        for precision, file in (row["files"] if row else {}).items():
            drift = file.get("gpu fp16")
            cells = [
                f"`{variant.name}`",
                f"{row['exact']:.0e}",
                precision,
                f"{file['bytes'] / 1e6:,.1f}",
                str(file["ops"]),
            ]
            cells += [f"{file['cosine']:.7f}", f"{file['relative_diff']:.0e}", f"{drift:.7f}" if drift else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "- *relative difference*: the largest |difference| over the largest |element|.",
        "- *ML Drift fp16*: correlation with the same file on the CPU, where the GPU gate was run.",
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """A row's figures as the table shows them."""
    fp16, fp32 = (*row["gpu"], {}, {})[:2]
    ops = f"{row['ops']}" + (f" ({row['findings']} findings)" if row["findings"] else "")

    def correlation(run: dict[str, Any]) -> str:
        if run.get("correlation") is None:
            return run.get("verdict") or "not run"
        return f"{run['correlation']:.7f}" + ("" if run["ops_on_gpu"] == run["ops"] else f", {run['ops_on_gpu']} ops")

    return [
        f"{row['depth']} blocks, {row['image_size']} px",
        f"{row['exact']:.0e}",
        ops,
        f"{row['cpu fp32']['relative_diff']:.0e}",
        correlation(fp16),
        f"{fp16['norm_error']:.0e}" if fp16.get("norm_error") is not None else "",
        correlation(fp32),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="variants, separated by commas")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--bundles", type=Path, nargs="+", default=[], help="bundles of whole towers")
    parser.add_argument("--eva", nargs="*", help="entry points of timm's Eva class, or all of them: two blocks")
    parser.add_argument("--eva-whole", nargs="+", default=[], help="entry points, whole")
    options = parser.parse_args()
    if unknown := {*(options.eva or ()), *options.eva_whole} - {*eva_names()}:
        parser.error(f"no entry points of timm's Eva class: {', '.join(sorted(unknown))}")
    if options.eva is not None:
        return eva_rows(json.loads(JSON.read_text("utf-8")), options.eva or eva_names())
    if options.eva_whole:
        content = json.loads(JSON.read_text("utf-8"))
        for name in options.eva_whole:
            model = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
            content.setdefault("eva whole", {})[name] = measure_eva(fill(model, AMPLITUDE))
            write(content)
        return None
    if options.bundles:
        content = json.loads(JSON.read_text("utf-8"))
        content["whole"] = content.get("whole", {}) | dict(map(whole, options.bundles))
        return write(content)
    names = [name for name in options.only.split(",") if name]
    extra = ("others", "linears")
    wanted = [find(name) for name in names if name not in extra] or list(VARIANTS) * (not names)
    content = json.loads(JSON.read_text("utf-8")) if JSON.is_file() else {"rows": {}}
    content |= {"command": "python -m benchmarks.family", "versions": report.versions()}
    twins: dict[tuple[Any, ...], dict[str, Any]] = {}
    for variant in wanted:
        make = tuple(value for name, value in asdict(variant).items() if name not in NAMES)
        if make not in twins:
            twins[make] = measure(variant, options.depth)
        content["rows"][variant.name] = twins[make]
        content["backend"] = twins[make]["gpu"][0]["backend"].replace(" fp16", "")
        write(content)
    if not names or "others" in names:
        content["others"] = {}
        for what, case in OTHERS.items():
            content["others"][what] = measure_other(*case)
            write(content)
    if not names or "linears" in names:
        content["linears"] = [measure_linear(*shape) for shape in LINEARS]
        write(content)


def write(content: dict[str, Any]) -> None:
    JSON.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(content), encoding="utf-8")


if __name__ == "__main__":
    main()
