"""Labels and prompt templates -> the label embeddings that an app classifies with.

Per label, as CLIP does it: every template filled in, each prompt's embedding normalised, their mean, normalised again.
The work is cut into windows of prompts, so memory does not grow with the number of labels or templates.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pecore.bundle import EMBEDDINGS_FILE, LABELS_FILE, LabelsSection, file_entry
from pecore.convert.label_files import doubtful, named
from pecore.convert.staging import manifest_to_extend, staging
from pecore.convert.text_tower import TextConfig, TextWeights, build_text_tower, encode_ids, text_config, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.tokenizer import ClipTokenizer
from pecore.variants import Variant

WINDOW = 1024  # prompts tokenized, sorted by length and embedded together
BATCH = 256
STEPS = 10  # progress reports


def embed_labels(
    tower: Any,
    tokenizer: ClipTokenizer,
    labels: Sequence[str],
    templates: Sequence[str],
    write: Callable[[np.ndarray], Any],
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Embed every label, `write` rows `[k, dim]` (float32, L2-normalised) in the labels' order, a window at a time.

    Args:
        tower: open_clip's text tower (`build_text_tower`).
        progress: told the number of labels done.

    Returns:
        The labels of which some prompt was too long for the tower and was cut.
    """
    cut, context = [], tower.context_length
    window = max(1, WINDOW // len(templates))
    for start in range(0, len(labels), window):
        some = labels[start : start + window]
        prompts = [template.replace("{}", label) for label in some for template in templates]
        ids = token_ids(tokenizer, prompts, context)
        full = (ids[:, -1] == tokenizer.end).nonzero().flatten().tolist()
        long = {i // len(templates) for i in full if tokenizer.count(prompts[i]) > context}
        cut += [some[i] for i in sorted(long)]
        rows = torch.empty(len(ids), tower.output_dim)
        for batch in ids.argmax(-1).argsort(stable=True).split(BATCH):  # prompts of one length together
            rows[batch] = encode_ids(tower, ids[batch])
        mean = rows.reshape(len(some), len(templates), -1).mean(1)
        write(F.normalize(mean, dim=-1).numpy().astype("<f4"))
        progress(start + len(some))
    return cut


def write_labels(
    folder: Path,
    variant: Variant,
    weights: TextWeights,
    labels: Sequence[str],
    templates: Sequence[str],
    log: Callable[[str], None] = print,
    *,
    names: tuple[str, str] = ("", ""),
    config: TextConfig | None = None,
) -> LabelsSection:
    """Embed labels and write them into the bundle in `folder`, or make it a folder of labels alone.

    Args:
        names: what the user called the labels and the templates; kept in the manifest.
        config: of a tower that is not the variant's own.

    Returns:
        The manifest's `labels` entry (docs/artefacts.md).

    Raises:
        InputError: the folder is no bundle, or one of another variant or checkpoint.
    """
    config = config or text_config(variant)
    origin = weights.origin()
    before = manifest_to_extend(folder, variant, "labels", origin)
    warnings = doubtful(labels)
    tokenizer = clip_tokenizer()
    tower = build_text_tower(config, weights.state_dict)
    what = f"{len(labels)} labels x {len(templates)} templates"
    reported = 0

    def progress(done: int) -> None:
        nonlocal reported
        if done * STEPS // len(labels) > reported:
            reported = done * STEPS // len(labels)
            log(f"embedded {done} of {what}")

    log(f"embedding {what}")
    with staging(folder) as staged:
        with (staged.folder / EMBEDDINGS_FILE).open("wb") as file:
            file.write(np.array([len(labels), config.output_dim], "<i4").tobytes())
            cut = embed_labels(tower, tokenizer, labels, templates, lambda rows: file.write(rows.tobytes()), progress)
        (staged.folder / LABELS_FILE).write_bytes("".join(f"{label}\n" for label in labels).encode())
        warnings += named(f"makes a prompt of more than {config.context_length} tokens, which is cut", cut)
        section = LabelsSection(
            files={name: file_entry(staged.folder / name) for name in (EMBEDDINGS_FILE, LABELS_FILE)},
            n=len(labels),
            dim=config.output_dim,
            logit_scale=weights.logit_scale,
            weights=origin,
            templates=list(templates),
            label_source=names[0],
            template_source=names[1],
            tokenizer=tokenizer.name,
            context_length=config.context_length,
            warnings=warnings,
        )
        scale, prompts = weights.logit_scale, list(templates)
        staged.add(replace(before, logit_scale=scale, prompt_templates=prompts, labels=section))
    return section
