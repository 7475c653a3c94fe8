"""Write docs/benchmarks.md and its plots from benchmarks/results.

python -m benchmarks.page
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks import results
from benchmarks.conversion import WAYS
from benchmarks.latency import ALONE, LABELS
from benchmarks.tried import IDEAS, INT4
from benchmarks.workspace import GRAPHS

PAGE = Path("docs/benchmarks.md")
IMAGES = Path("docs/images")
BLUE, ORANGE, RED, GREY = "#1f6fb4", "#e08214", "#c62828", "#767676"
FORMS = {
    "none": ("ours: scaled domain", BLUE, "o"),
    "norm-published": ("published form: x/32, variance rebuilt", ORANGE, "s"),
    "norm": ("plain LayerNorm", RED, "v"),
}
Row = Sequence[str]


def table(headings: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; all columns but the first are set to the right.

    Raises:
        ValueError: a row is longer or shorter than the headings.
    """
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"{len(headings)} columns, but a row has {len(row)}: {row}")
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(spread: Mapping[str, float], digits: int = 2) -> str:
    """Median, and the quartiles in brackets."""
    median, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def nines(value: float | None) -> str:
    """A cosine or correlation with as many digits as tell it from 1, at most nine; NaN by name."""
    if value is None:
        return "NaN"
    for digits in range(4, 10):
        if f"{value:.{digits}f}" != f"{1:.{digits}f}":
            return f"{value:.{digits}f}"
    return "1.000000000"


def graphs(content: Mapping[str, Any]) -> str:
    rows = []
    for name, facts in content["graphs"].items():
        found = ", ".join(f"{rule} ({count})" for rule, count in facts["findings"].items()) or "none"
        sizes = [str(facts["ops"]), str(facts["tensors"]), f"{facts['bytes'] / 1e6:.1f}", f"{facts['macs'] / 1e9:.2f}"]
        rows.append([GRAPHS[name], *sizes, found])
    headings = ["graph", "ops", "tensors", "MB", "GMACs", "ops that the rules refuse or distrust"]
    return (
        f"## Graphs of {content['size']}\n\n{table(headings, rows)}\n\n"
        "The published structure is a rebuild from its description (`benchmarks/published.py`), exact against timm in "
        "float64; the published file itself has 1028 nodes. The last column: `pecore inspect`.\n\n"
        "`python -m benchmarks.graphs`"
    )


def latency(content: Mapping[str, Any]) -> str:
    counts = list(content["threads"])
    headings = ["runs on the CPU"]
    for count in counts:
        headings += [f"{count} thread{'s' * (count != '1')}: time to the published structure's", "to ours, fp32", "ms"]
    headings.append("cosine with PyTorch")
    rows, left_out = [], dict[str, str]()
    for name, label in LABELS.items():
        cells, cosine = [label], None
        for count in counts:
            left_out |= content["threads"][count]["left_out"]
            row = content["threads"][count]["rows"].get(name)
            if row is None:
                cells += ["", "", ""]
                continue
            cosine = row["cosine"]
            cells += [between(row["ratio"]), f"{row['to_ours_fp32']['median']:.2f}", f"{row['ms']['median']:.0f}"]
        if cosine is not None:
            rows.append([*cells, nines(cosine)])
    missing = "".join(f" Not measured: {LABELS[name]} ({why})." for name, why in left_out.items())
    alone = [
        [
            ALONE[name],
            between(row["first_to_warm"], 1),
            f"{row['first_ms']['median']:.0f}",
            between(row["very_first_ms"], 0),
            f"{row['added_mb']:.0f}",
        ]
        for name, row in content["alone"].items()
    ]
    return (
        f"## Latency on the CPU\n\n{content['size']}, one photograph, {content['rounds']} paired rounds: each round "
        "runs everything once, in turn. Ratios are medians over rounds, with quartiles; milliseconds are for scale "
        f"only.{missing}\n\n{table(headings, rows)}\n\n"
        "### From file to first embedding, and memory\n\n"
        f"Medians of {content['repeats']} processes each, in turn; the files were read before, so no disk "
        "is in it. First to warm: loading and the first embedding together, over a warm run, for a process's second "
        "and third load. Its very first one also waits for memory that a virtual machine's host has to find. MB: "
        "resident after that, beyond the imported libraries; mapped files included. Weight cache: "
        "`open_model(..., weight_cache=FOLDER)`. PyTorch starts "
        f"from a module in memory.\n\n{table(['', 'first to warm', 'first, ms', 'very first, ms', 'MB'], alone)}\n\n"
        "`python -m benchmarks.latency`"
    )


def conversion(content: Mapping[str, Any]) -> str:
    labels = {**WAYS, "onnx2tf": f"onnx2tf {content['onnx2tf_version']}, ONNX export included"}
    rows, notes = [], []
    for size, ways in content["sizes"].items():
        for way, figures in ways.items():
            failure = figures if isinstance(figures, str) else figures.get("failed")
            if failure:
                rows.append([size, labels[way], "failed", ""])
                notes.append(f"- {size}, {labels[way]}: {failure}")
                continue
            rows.append([size, labels[way], f"{figures['seconds']:.0f}", f"{figures['peak_gb']:.1f}"])
            if "graph" in figures:
                notes.append(f"- {size}, {_onnx2tf_graph(figures['graph'])}")
    told = "\n".join(notes) or "- not measured: its environment is not there (`make build/onnx2tf/bin/onnx2tf`)"
    return (
        "## Conversion to fp16\n\nWhole processes, from the start of Python to the finished file, gates left out but "
        "where it says so; "
        f"peak is the largest resident set.\n\n{table(['size', 'by', 'seconds', 'peak, GB'], rows)}\n\n"
        f"What comes out of onnx2tf (given timm's tower; float32):\n\n{told}\n\n`python -m benchmarks.conversion`"
    )


def _onnx2tf_graph(graph: Mapping[str, Any]) -> str:
    gpu, rules = graph["gpu"], ", ".join(f"{rule} ({count})" for rule, count in graph["findings"].items())
    refused = "; ".join(f"{op}: {reason}" for op, reason in gpu["refused"].items())
    on_gpu = f"correlation {nines(gpu['figures']['correlation'])} there" if gpu["figures"] else refused or gpu["detail"]
    share = "" if gpu["ops_on_gpu"] is None else f", {gpu['ops_on_gpu']} of them on ML Drift"
    return (
        f"onnx2tf's graph: {graph['ops']} ops{share} ({gpu['verdict'].replace('_', ' ')}: {on_gpu}); on the CPU cosine "
        f"{nines(graph['cpu']['cosine'])} with PyTorch; by the rules: {rules or 'nothing'}"
    )


def accuracy(content: Mapping[str, Any]) -> str:
    full, sweep = content["full"], content["sweep"]
    adapter = full["adapter"]
    rows = []
    for name, on in full["rows"].items():
        for where, row in on.items():
            place = "LiteRT CPU" if where == "cpu" else f"ML Drift {where.removeprefix('gpu ')}"
            if "correlation" not in row:
                rows.append([GRAPHS[name], place, row["verdict"], "", "", ""])
                continue
            figures = [nines(row["correlation"]), f"{row['norm_error'] or 0:.0e}", f"{row['max_abs_diff'] or 0:.1e}"]
            if "ms" in row:  # never of a software driver
                place += f", {row['ms']:.1f} ms"
            images = full["images"] if where == "cpu" else full["on_gpu"]
            rows.append([GRAPHS[name], place, *figures, f"{round(row['top1'] * images)} of {images}"])
    where = (
        "no GPU adapter was found"
        if adapter is None
        else f"ML Drift on {adapter['name']}"
        + (", a software driver: its times are no speed" if adapter["software"] else "")
    )
    headings = ["file", "on", "correlation", "norm error", "max abs diff", "same top label"]
    amplitudes = sweep["amplitudes"]
    forms = [[FORMS[form["name"]][0], *_over(form["points"], amplitudes)] for form in sweep["forms"] if form["points"]]
    files = [[f"{GRAPHS[name]}, LiteRT CPU", *_over(points, amplitudes)] for name, points in sweep["cpu"].items()]
    columns = ["correlation", *(f"{amplitude:g}" for amplitude in amplitudes)]
    return (
        f"## Accuracy\n\n{content['size']} at full depth against PyTorch fp32, the worst of {full['images']} images "
        f"on the CPU (five photographs and crops of them), of {full['on_gpu']} photographs on the GPU; {where}. Top "
        f"label: of {full['labels']} labels in seeded directions, as synthetic text embeddings are; the first leads "
        f"the second by {full['margin']['median']:.4f} in cosine (median).\n\n{table(headings, rows)}\n\n"
        "### Over the amplitude of the residual stream\n\n"
        f"The first {sweep['depth']} of {sweep['of']} blocks of {sweep['size']}. The forms of LayerNorm: on ML Drift "
        "in fp16, against the same file on the CPU. Our files on the CPU: against PyTorch.\n\n"
        f"{table(columns, [*forms, *files])}\n\n"
        "![Correlation over amplitude for three forms of LayerNorm](images/bench_amplitude.png)\n\n"
        "`python -m benchmarks.accuracy`"
    )


def _over(points: Sequence[Mapping[str, Any]], amplitudes: Sequence[float]) -> list[str]:
    at = {point["amplitude"]: nines(point["correlation"]) for point in points if "correlation" in point}
    return [at.get(amplitude, "") for amplitude in amplitudes]


def scaling(content: Mapping[str, Any]) -> str:
    rows = []
    axes = {"image": "image side, pixels", "batch": "batch", "variant": "variant (over GMACs)"}
    for axis, label in axes.items():
        points = content[axis]["points"]
        told = ", ".join(f"{p['label']}: {p['ratio']['median']:.2f}" for p in points)
        rows.append([label, told, f"{content[axis]['fitted']:.2f}", f"{content[axis]['arithmetic']:.2f}"])
    headings = ["over", "time, in that of the first", "fitted exponent", "exponent of the MACs"]
    return (
        f"## Scaling\n\nfp32, XNNPACK, {content['threads']} threads, {content['rounds']} paired rounds. Image size and "
        f"batch: the first {content['depth']} blocks of {content['size']}; variants: whole towers, each at its own "
        f"image size.\n\n{table(headings, rows)}\n\n"
        "![Time over image size, batch and variant](images/bench_scaling.png)\n\n"
        "`python -m benchmarks.scaling`"
    )


def tried(content: Mapping[str, Any]) -> str:
    rows = []
    for name, row in content["layouts"].items():
        idea, graph = IDEAS[name], row["graph"]
        found = ", ".join(f"{rule} ({count})" for rule, count in graph["findings"].items()) or "none"
        rows.append([idea.label, between(row["ratio"]), str(graph["ops"]), found, nines(row["cosine"])])
    headings = ["what", "time to ours in that precision", "ops", "ops that the rules refuse or distrust", "cosine"]
    four = [
        [
            size,
            INT4[name][0] if name in INT4 else "int8",
            between(row["ratio"]),
            f"{row['bytes'] / 1e6:.1f}",
            nines(row["cosine"]),
        ]
        for size, found in content["int4"].items()
        for name, row in found.items()
    ]
    return (
        f"## What was tried\n\nThe first {content['depth']} blocks of {content['size']}, {content['threads']} threads, "
        f"{content['rounds']} paired rounds, cosine with PyTorch on one photograph. Kept: the fused projection on the "
        "GPU, slices of 0.6 M weights in fp32-cpu files.\n\n"
        f"{table(headings, rows)}\n\n"
        "Weights in 4 bits, in blocks of 32 with a scale each, of whole towers; the worst cosine with PyTorch over "
        f"five photographs. Not offered.\n\n{table(['size', 'weights', 'time to int8', 'MB', 'cosine'], four)}\n\n"
        "`python -m benchmarks.tried`"
    )


SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "graphs": graphs,
    "latency": latency,
    "conversion": conversion,
    "accuracy": accuracy,
    "tried": tried,
    "scaling": scaling,
}


def page(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page, from the topics that were run."""
    machine = "\n".join(f"- {line}" for line in dict.fromkeys(_machine(c["environment"]) for c in contents.values()))
    parts = [SECTIONS[topic](contents[topic]) for topic in SECTIONS if topic in contents]
    return (
        "# Benchmarks\n\nMade by `make bench`, from `benchmarks/results/*.json`; not edited by hand. All weights are "
        "synthetic: speed and memory do not depend on their values, and what accuracy does to a trained tower's labels "
        f"is not shown.\n\nMeasured on:\n\n{machine}\n\n" + "\n\n".join(parts) + "\n"
    )


def _machine(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gb']:g} GB; "
        f"Python {environment['python']}, {versions}"
    )


def plot_amplitude(sweep: Mapping[str, Any], path: Path) -> None:
    """Correlation over amplitude, each form of LayerNorm a line; NaN as a cross at 0."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = {amplitude: i for i, amplitude in enumerate(sweep["amplitudes"])}
    for form in sweep["forms"]:
        label, colour, marker = FORMS[form["name"]]
        points = [p for p in form["points"] if "correlation" in p]
        good = [p for p in points if p["correlation"] is not None]
        size = 6 + 4 * (list(FORMS)[::-1].index(form["name"]))
        axes.plot(
            [places[p["amplitude"]] for p in good],
            [p["correlation"] for p in good],
            marker=marker,
            markersize=size,
            color=colour,
            linestyle=":",
            label=label,
        )
        lost = [places[p["amplitude"]] for p in points if p["correlation"] is None]
        if lost:
            axes.plot(lost, [0.0] * len(lost), "x", color=colour, markersize=size + 3, markeredgewidth=2, clip_on=False)
    axes.set_xticks(list(places.values()), [f"{amplitude:g}" for amplitude in places])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("largest activation in the residual stream")
    axes.set_ylabel("correlation with the CPU")
    axes.set_title(
        f"{sweep['size']}, {sweep['depth']} blocks, ML Drift in fp16 (a cross: NaN)", fontsize=10, loc="left"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if sweep["forms"]:
        axes.legend(loc="lower left", fontsize=9, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_scaling(content: Mapping[str, Any], path: Path) -> None:
    """Time and MACs, both over those of the first point, on logarithmic axes: one panel for each row."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    names = {"image": "image side, pixels", "batch": "batch", "variant": "GMACs of the variant"}
    for axes, (axis, label) in zip(panels, names.items()):
        row = content[axis]
        xs = [p["x"] for p in row["points"]]
        macs = [p["macs"] / row["points"][0]["macs"] for p in row["points"]]
        times = [p["ratio"]["median"] for p in row["points"]]
        low = [p["ratio"]["median"] - p["ratio"]["low"] for p in row["points"]]
        high = [p["ratio"]["high"] - p["ratio"]["median"] for p in row["points"]]
        axes.plot(xs, macs, "--", color=GREY, label=f"MACs, x^{row['arithmetic']:.2f}")
        axes.errorbar(xs, times, [low, high], color=BLUE, marker="o", label=f"time, x^{row['fitted']:.2f}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        if axis == "variant":  # two of them are too close for a tick each
            for point, x, time in zip(row["points"], xs, times):
                axes.annotate(point["label"], (x, time), (-7, 1), textcoords="offset points", fontsize=8, ha="right")
            axes.set_xlim(xs[0] / 2)
        else:
            axes.set_xticks(xs, [p["label"] for p in row["points"]], fontsize=8)
            axes.set_xticks([], minor=True)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("over that of the first")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write(folder: Path, target: Path, images: Path) -> None:
    """Page and plots of the topics that have results."""
    contents = {topic: results.read(topic, folder) for topic in SECTIONS if (folder / f"{topic}.json").exists()}
    images.mkdir(parents=True, exist_ok=True)
    if "accuracy" in contents:
        plot_amplitude(contents["accuracy"]["sweep"], images / "bench_amplitude.png")
    if "scaling" in contents:
        plot_scaling(contents["scaling"], images / "bench_scaling.png")
    target.write_text(page(contents), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--images", type=Path, default=IMAGES)
    options = parser.parse_args()
    write(options.results, options.page, options.images)


if __name__ == "__main__":
    main()
