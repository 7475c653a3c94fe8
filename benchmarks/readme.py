"""Put the figures of README.md where its comments `<!-- NAME: made by ... -->` and `<!-- end -->` keep their place.

python -m benchmarks.readme       from benchmarks/results and pecore/family.json
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.family import JSON as FAMILY
from benchmarks.page import nines, table
from pecore.variants import find

README = FAMILY.parents[1] / "README.md"
LOUD = 8000
"""Amplitude of the comparison: the published form lives to 2000."""
SIZES = ("T16", "S16", "B16", "L14", "G14")
COMMAND = "python -m benchmarks.readme"
PLACE = re.compile(rf"(<!-- (\w+): made by {re.escape(COMMAND)} -->\n).*?(<!-- end -->)", re.DOTALL)
Contents = Mapping[str, Mapping[str, Any]]


def compared(contents: Contents) -> str:
    """A graph of the published structure beside ours, in four lines."""
    graphs, sweep = contents["graphs"]["graphs"], contents["accuracy"]["sweep"]
    when_loud = {
        form["name"]: next(p["correlation"] for p in form["points"] if p["amplitude"] == LOUD)
        for form in sweep["forms"]
    }
    lost = when_loud["norm-published"]
    exact = contents["family"]["whole"]["core-b16"]["exact"]
    return table(
        ["", "a graph of the published structure", "pecore-litert"],
        [
            ["ops in B/16, fp16", str(graphs["published-fp16"]["ops"]), f"**{graphs['ours-fp16']['ops']}**"],
            [
                "rewritten tower against timm's",
                "correlation, one noise input",
                f"**max \\|diff\\| {exact:.1e}**, float64",
            ],
            [
                f"fp16 with massive activations of {LOUD}, {sweep['depth']} blocks",
                f"correlation {'NaN' if lost is None else f'{lost:.2f}'}",
                f"**{when_loud['none']:.5f}**",
            ],
            ["the delegate itself, before a phone is touched", "no", "**yes, as a test**"],
        ],
    )


def sizes(contents: Contents) -> str:
    """Every size of PE-Core: its files, what they are worth, and what a conversion costs."""
    rows = []
    for size in SIZES:
        variant = find(size)
        whole, shallow = (contents["family"][part][variant.name] for part in ("whole", "rows"))
        fp16, int8 = whole["files"]["fp16"], whole["files"]["int8"]
        cost = contents["conversion"]["sizes"].get(size, {}).get("lightweight")
        rows.append(
            [
                size,
                f"{variant.image_size} → {variant.embedding_dim}",
                _parameters(variant.parameters),
                f"{fp16['bytes'] / 1e6:,.1f}, {fp16['ops']}",
                f"{fp16['cosine']:.7f}",
                f"{fp16['gpu fp16']:.5f}"
                if "gpu fp16" in fp16
                else f"{shallow['gpu'][0]['correlation']:.5f}, {shallow['depth']} blocks",
                f"{int8['bytes'] / 1e6:,.1f}, {int8['ops']}",
                f"{int8['cosine']:.5f}",
                f"{cost['seconds']:.0f}, {cost['peak_gb']:.1f}" if cost else "[by steps](docs/artefacts.md)",
            ]
        )
    headings = ["size", "pixels → embedding", "parameters", "fp16: MB, ops", "cosine", "on ML Drift"]
    return table([*headings, "int8: MB, ops", "cosine", "conversion, s, GB"], rows)


def speed(contents: Contents) -> str:
    """Three lines on the CPU: time over the published structure's, with as many threads as were measured last."""
    *_, rows = (count["rows"] for count in contents["latency"]["threads"].values())

    def ratio(name: str) -> str:
        return f"{rows[name]['ratio']['median']:.2f}x" if name in rows else "not measured"

    return (
        f"- int8 **{ratio('ours-int8')}** (ONNX Runtime's dynamic int8: {ratio('onnx-int8')}), cosine "
        f"{nines(rows['ours-int8']['cosine'])} with PyTorch;\n"
        f"- float32 in slices, `--precision fp32-cpu`: **{ratio('ours-cpu')}** (ONNX Runtime {ratio('onnx')}, PyTorch "
        f"eager {ratio('eager')}, torch.compile {ratio('compile')}, OpenVINO {ratio('openvino')});\n"
        f"- as made for the GPU: float32 {ratio('ours-fp32')}, fp16 {ratio('ours-fp16')}, with half the ops; timm's "
        f"tower converted as it is: {ratio('timm')}."
    )


def _parameters(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


PARTS: Mapping[str, Callable[[Contents], str]] = {"compared": compared, "sizes": sizes, "speed": speed}
"""Name of a place -> what belongs there."""


def filled(text: str, contents: Contents) -> str:
    """README's `text` with each of `PARTS` in its place.

    Raises:
        ValueError: a place is missing, there twice, or unknown.
    """
    places = [name for _, name, _ in PLACE.findall(text)]
    if sorted(places) != sorted(PARTS):
        raise ValueError(f"README has places for {places}, not for each of {list(PARTS)} once")
    return PLACE.sub(lambda found: f"{found[1]}\n{PARTS[found[2]](contents)}\n\n{found[3]}", text)


def read(folder: Path) -> Contents:
    """What README's figures are made from: the results in `folder`, and those of `benchmarks.family`."""
    made = {topic: results.read(topic, folder) for topic in ("graphs", "latency", "conversion", "accuracy")}
    return {**made, "family": json.loads(FAMILY.read_text("utf-8"))}


def write() -> None:
    README.write_text(filled(README.read_text("utf-8"), read(results.RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    write()
