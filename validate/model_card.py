"""MODEL_CARD.md, generated from the manifest and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from pecore.bundle import Manifest

LICENCE = {
    False: "Meta's Perception Encoder page gives the PE checkpoints under Apache-2.0; check it for yours.",
    True: "Synthetic weights are generated and carry no licence of their own.",
}
OTHER_LICENCE = "These weights are under their authors' licence, some of them non-commercial: see where they are from."


def model_card(manifest: Manifest, report: Mapping[str, Any]) -> str:
    """The card of a vision tower's bundle, as Markdown; `report` is the content of its `report.json`."""
    vision, variant = manifest.vision, manifest.variant
    assert vision is not None
    weights, graph, made_by = vision.weights, vision.input, vision.versions.get("pecore-litert", "")
    checksum = weights.sha256
    lines = [f"# {manifest.name}", ""]
    if weights.synthetic:
        lines += [
            f"> **Synthetic weights** (seed {weights.seed}, amplitude {weights.amplitude or 0:g}): "
            "this graph proves the conversion and classifies nothing.",
            "",
        ]
    lines += [
        f"{f'Perception Encoder {variant.size} vision tower (' if variant.is_pe else 'Vision tower (timm: '}"
        f"{variant.timm_name}), converted for LiteRT by",
        f"pecore-litert {made_by}. Weights: {weights.source}{f', sha256 `{checksum}`' if checksum else ''}.",
        "",
        "## Files",
        "",
        "| file | bytes | ops | sha256 |",
        "|---|---|---|---|",
        *(f"| `{name}` | {f.bytes:,} | {f.ops} | `{f.sha256}` |" for name, f in vision.files.items()),
        "",
        "## Input and output",
        "",
        f"Signature `{vision.signature}`. Input `{graph.name}`: {graph.dtype} {list(graph.shape)},",
        f"{str(graph.layout).upper()}, RGB in {graph.range}.",
        *(f"Output `{o.name}`: {o.dtype} {list(o.shape)}, {o.meaning}." for o in vision.outputs),
        "",
        f"Preprocessing: {vision.preprocessing['summary']}.",
        "",
        "## Gates",
        "",
        f"On {', '.join(report['images'])}.",
        "",
        *_gate_table(report["gates"]),
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
        "",
        *(line for entry in report.get("devices", []) for line in _device(entry)),
        "## Licence",
        "",
        LICENCE[weights.synthetic] if variant.is_pe or weights.synthetic else OTHER_LICENCE,
        "",
    ]
    return "\n".join(lines)


def _device(entry: Mapping[str, Any]) -> list[str]:
    """What the self-test on a phone or in a browser found."""
    device, made_by = entry["device"], ", ".join(f"{k} {v}" for k, v in (entry["versions"] or {}).items())
    return [
        f"## On {device['name']}",
        "",
        f"{device['system']}{f', {made_by}' if made_by else ''}; the bundle's two reference samples.",
        "",
        *_gate_table(entry["gates"]),
    ]


def _gate_table(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["| gate | of | on | result | figure |", "|---|---|---|---|---|"]
    return [*head, *(_gate_row(gate) for gate in gates), ""]


def _gate_row(gate: Mapping[str, Any]) -> str:
    detail = " ".join(gate["detail"].split()).replace("|", "&#124;")
    return f"| {gate['gate']} | {gate['subject']} | {gate['backend']} | {gate['outcome']} | {detail} |"
