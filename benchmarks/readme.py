"""The figures of README.md: a graph of the published structure beside ours, every size of PE-Core, speed."""

from benchmarks import latency, results
from benchmarks.section import Section, counted, nines, transposed
from benchmarks.workspace import GRAPHS
from pecore.variants import find

AMPLITUDE = 8000
"""Of the comparison: the published form is right up to 2000."""
SIZES = ("T16", "S16", "B16", "L14", "G14")
GAIN = 0.9
"""int8 is recommended for its speed where it takes less than this share of fp16's time."""


def compared(contents: results.Contents) -> Section:
    """A graph of the published structure beside ours."""
    graphs, sweep = contents["graphs"]["graphs"], contents["accuracy"]["sweep"]
    theirs, ours = graphs["published-fp16"], graphs["ours-fp16"]
    launched = contents["kernels"]["sizes"]["B16"]
    at = {
        form["name"]: next(nines(p["correlation"]) for p in form["points"] if p["amplitude"] == AMPLITUDE)
        for form in sweep["forms"]
    }
    return Section(
        ["B/16, fp16 weights", "graph of the published structure", "pecore-litert"],
        [
            ["ops", str(theirs["ops"]), f"**{ours['ops']}**"],
            [
                "kernels that ML Drift launches for an image",
                str(launched["published-fp16"]["kernels"]),
                f"**{launched['ours-fp16']['kernels']}**",
            ],
            ["ops that phones have computed wrongly", counted(theirs["findings"]), f"**{counted(ours['findings'])}**"],
            [
                f"fp16, massive activations of {AMPLITUDE}, {sweep['depth']} blocks: correlation",
                at["norm-published"],
                f"**{at['none']}**",
            ],
        ],
    )


def sizes(contents: results.Contents) -> Section:
    """Every size: its files, their figures, and what a conversion costs on the first kind of CPU that it was run on."""
    kind, costs = next((kind, content["sizes"]) for kind, content in contents["conversion"].items())
    rows = []
    for size in SIZES:
        variant = find(size)
        whole, shallow = (contents["family"][part][variant.name] for part in ("whole", "rows"))
        fp16, int8 = whole["files"]["fp16"], whole["files"]["int8"]
        blocks = f"{shallow['gpu'][0]['correlation']:.5f}, {shallow['depth']} blocks"
        cost = costs.get(size, {}).get("lightweight")
        rows.append(
            [
                size,
                f"{variant.image_size} → {variant.embedding_dim}",
                f"{variant.parameters / 1e6:.3g} M"
                if variant.parameters < 1e9
                else f"{variant.parameters / 1e9:.3g} B",
                f"{fp16['bytes'] / 1e6:,.1f}, {fp16['ops']}",
                f"{fp16['cosine']:.7f}",
                f"{fp16['gpu fp16']:.5f}" if "gpu fp16" in fp16 else blocks,
                f"{int8['bytes'] / 1e6:,.1f}, {int8['ops']}",
                f"{int8['cosine']:.5f}",
                f"{cost['seconds']:.0f}, {cost['peak_gb']:.1f}" if cost else "[by steps](docs/artefacts.md)",
            ]
        )
    headings = ["size", "pixels → embedding", "parameters", "fp16: MB, ops", "cosine", "on ML Drift"]
    return Section([*headings, "int8: MB, ops", "cosine", f"conversion, s, GB ({kind})"], rows)


def speed(contents: results.Contents) -> Section:
    """Time over PyTorch's, by kind of CPU and threads, and which file to take there."""
    labels = {name: label for name, label in latency.LABELS.items() if name not in GRAPHS or name.startswith("ours")}
    columns = [["", *labels.values()]]
    notes = []
    for kind, content in contents["latency"].items():
        columns += latency.over_eager(kind, content, labels)
        ratios = [{n: row["ratio"]["median"] for n, row in f["rows"].items()} for f in content["threads"].values()]
        shares = [found["ours-int8"] / found["ours-fp16"] for found in ratios]
        best, told = "int8" if max(shares) < GAIN else "fp16", " and ".join(f"{share:.2f}" for share in shares)
        threads = f"{' and '.join(content['threads'])} thread{'s' * (list(content['threads']) != ['1'])}"
        cpu = content["environment"]["cpu"]
        notes.append(f"{kind} ({cpu}): take **{best}**; int8 takes {told} of fp16's time with {threads}.")
    return Section(*transposed(columns), notes)


SECTIONS = {"compared": compared, "sizes": sizes, "speed": speed}
