"""MODEL_CARD.md, generated from the manifest and the report."""

from collections.abc import Mapping
from typing import Any


def model_card(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    weights, graph = manifest["weights"], manifest["input"]
    lines = [f"# {manifest['name']}", ""]
    if weights["synthetic"]:
        lines += [
            f"> **Synthetic weights** (seed {weights['seed']}, amplitude {weights['amplitude']:g}): this graph proves the conversion and "
            "classifies nothing.",
            "",
        ]
    lines += [
        f"Perception Encoder {manifest['variant']['size']} vision tower ({manifest['variant']['timm_name']}), converted for LiteRT by "
        f"pecore-litert {manifest['versions']['pecore-litert']}. Weights: {weights['source']}, sha256 `{weights['sha256']}`.",
        "",
        "## Files",
        "",
        "| file | bytes | ops | sha256 |",
        "|---|---|---|---|",
        *(f"| `{name}` | {f['bytes']:,} | {f['ops']} | `{f['sha256']}` |" for name, f in manifest["files"].items()),
        "",
        "## Input and output",
        "",
        f"Signature `{manifest['signature']}`. Input `{graph['name']}`: {graph['dtype']} {graph['shape']}, {graph['layout'].upper()}, RGB in "
        f"{graph['range']}. Output `{manifest['output']['name']}`: {manifest['output']['dtype']} {manifest['output']['shape']}, "
        f"{manifest['output']['meaning']}.",
        "",
        f"Preprocessing: {manifest['preprocessing']['summary']}.",
        "",
        "## Gates",
        "",
        f"On {', '.join(report['images'])}.",
        "",
        "| gate | of | on | result | figure |",
        "|---|---|---|---|---|",
        *(
            f"| {g['gate']} | {g['subject']} | {g['backend']} | {g['outcome']} | {g['detail'].replace('|', '&#124;')} |"
            for g in report["gates"]
        ),
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
        "",
        "## Licence",
        "",
        "The weights are Meta's: the Perception Encoder repository gives the PE checkpoints under Apache-2.0. Check it for the checkpoint "
        "you convert."
        if not weights["synthetic"]
        else "Synthetic weights are generated and carry no licence of their own.",
        "",
    ]
    return "\n".join(lines)
