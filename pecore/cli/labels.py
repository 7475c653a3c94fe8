"""pecore labels"""

from pathlib import Path
from typing import Annotated

import typer

from pecore.cli.options import Ema, Seed, Verbose, weights_source
from pecore.console import progress, show, show_json, table

EXAMPLE = "pecore labels --size B16 --labels imagenet --out out/pe_core_base_224"


def labels(
    size: Annotated[str, typer.Option(help="T16, S16, B16, L14, G14 or drawings-T16.")],
    labels: Annotated[str, typer.Option(help="A UTF-8 file with one label a line, or imagenet.")],
    templates: Annotated[
        str, typer.Option(help="openai (80), simple (7), or a file with one template a line, {} where the label goes.")
    ] = "simple",
    weights: Annotated[
        str,
        typer.Option(help="hub (drawings-T16: the file in this package), or synthetic: seeded, classifies nothing."),
    ] = "hub",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A local file with both towers instead: open_clip's .safetensors or Meta's .pt.")
    ] = None,
    ema: Ema = True,
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder, or one for the labels alone; out/NAME OF THE BUNDLE.")
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest's entry as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Embed labels with the text tower and put them into a bundle."""
    with progress(verbose) as log:
        log("starting")
        from pecore.bundle import read_manifest
        from pecore.convert.label_embeddings import write_labels
        from pecore.convert.label_files import read_label_names, read_templates
        from pecore.convert.text_tower import load_text
        from pecore.variants import find

        variant = find(size)
        folder = out or Path("out") / variant.artefact
        names, prompts = read_label_names(labels), read_templates(templates)
        log("loading weights")
        loaded = load_text(variant, weights_source(weights, checkpoint), seed=seed, ema=ema, log=log)
        made = write_labels(folder, variant, loaded, names, prompts, log, names=(labels, templates))
    if as_json:
        show_json(read_manifest(folder).as_json()["labels"])
        return
    written = made.files["text_embeddings.bin"].bytes
    rows = [
        ("labels", f"{made.n} from {labels}"),
        ("embeddings", f"{made.n} x {made.dim}, {written:,} bytes"),
        ("templates", f"{len(prompts)} from {templates}"),
        ("logit scale", f"{made.logit_scale:g}"),
        ("weights", made.weights.source),
    ]
    about = table(f"Labels in {folder}", ("", ""), rows, header=False)
    show(about, *(f"warning: {warning}" for warning in made.warnings))
    if made.weights.synthetic:
        show("Synthetic weights: these embeddings prove the format and classify nothing.")
