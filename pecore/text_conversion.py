"""The text tower as LiteRT: checkpoint in, a judged `.tflite` in the bundle out. `pecore convert --tower text`."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convert import bundle, parts
from convert.forms import by_form, write_files
from convert.quantize import PRECISIONS
from convert.text_tower import TextConfig, TextWeights, build_text_tower, text_config, tokenizer
from convert.variants import Variant
from pecore.conversion import SIGNATURE, Result
from pecore.errors import InputError
from pecore.room import check_room
from rewrites.text import TextStem, rewrite_text, rewrite_text_block, rewrite_text_tail
from rewrites.tower import Scales
from validate import gates, headroom, report
from validate.gates import Check
from validate.reference import save_reference
from validate.rules import known_runtime, runtimes

PROMPTS = (
    "a photo of a cat.",
    "",
    "a bad photo of the large golden retriever.",
    "itap of a red double-decker bus, parked on a wet street in London at night, seen from across the river Thames",
    "Ünïcode: 日本の猫 🐈, naïve café",
    "a person spelling <end_of_text> out loud",
    "3 oranges, 12 apples & 1/2 lemon (on a table)",
    " ".join(["over"] * 60) + " the end",
)
"""What the gates run: short, empty, exactly cut, another script, and an end-of-text token in the middle."""


@dataclass(frozen=True)
class TextOptions:
    """What a conversion of a text tower is to make.

    precisions: of the files to keep. gpu: `auto` *reports* on the GPU where there is an adapter, the text tower being
    one for the CPU; `require` makes a gate of it; `skip` leaves it out. gpu_prompts: how many go through it. runtime:
    the LiteRT version whose rules apply.
    """

    precisions: Sequence[str] = ("int8",)
    gpu: str = "auto"
    gpu_prompts: int = 2
    runtime: str = runtimes()[-1]

    def __post_init__(self) -> None:
        unknown = [p for p in self.precisions if p not in PRECISIONS]
        if unknown or not self.precisions:
            wrong = ", ".join(unknown) or "list: it is empty"
            raise InputError(f"unknown precision {wrong}; choose from {', '.join(PRECISIONS)}")
        known_runtime(self.runtime)


@torch.no_grad()
def convert_text(
    variant: Variant,
    weights: TextWeights,
    target: Path,
    options: TextOptions = TextOptions(),
    stage: Callable[[str], None] = print,
    config: TextConfig | None = None,
) -> Result:
    """Convert a text tower and add it to the bundle in `target` (made where there is none); when a gate fails, what was
    made goes to `<target>.rejected` and the bundle is left as it was.

    Signature `tokens` `[1, context_length]` int32 (CLIP's tokenizer, zero-padded) -> `text_embedding` `[1, dim]`
    float32, L2-normalised. `Result.manifest` is the bundle's, `text` the section added; `config` is the variant's own
    where None.

    Raises:
        InputError: what was given can't be used, or the bundle is of another variant or checkpoint.
    """
    config = config or text_config(variant)
    about = weights.about()
    check_room(sum(t.numel() for t in weights.state_dict.values()), options.precisions, target)
    manifest = parts.open_manifest(target, variant, "text", about)
    with bundle.staging(target) as staged:
        model = build_text_tower(config, weights.state_dict)
        tokenize = tokenizer(config.context_length)
        ids = tokenize(PROMPTS)
        stage(f"computing the reference in PyTorch on {len(PROMPTS)} prompts, and headroom")
        reference = [{"text_embedding": row[None].numpy()} for row in F.normalize(model(ids), dim=-1)]
        tokens = [row[None].int() for row in ids]
        scales, reductions = _fit_scales(model, tokenize.end, tokens)
        checks = [gates.headroom_gate(reductions)]
        inputs = [{"tokens": row.numpy()} for row in tokens]
        files = {p: staged.folder / f"{variant.artefact}_text_{p}.tflite" for p in dict.fromkeys(options.precisions)}
        for form, written in by_form(files):
            stage(f"comparing the text {form.name} with open_clip in float64")
            difference = max_difference(model, scales, tokens[3], tokenize.end, **form.options)
            detail = f"max |diff| {difference:.1e} to open_clip"
            exact = gates.exact_gate(difference, f"text {form.name}")
            checks.append(replace(exact, detail=detail) if exact.outcome == "passed" else exact)
            make = partial(rewrite_text, model, scales, tokenize.end, **form.options)
            write_files(make, {"tokens": tokens[0]}, written, ("text_embedding",), stage)
            del make
        del model
        for precision, path in files.items():
            checks.append(reported(gates.graph_gate(path, options.runtime), options.gpu))
            stage(f"running {path.name} on the CPU")
            check, outputs = gates.cpu_gate(path, precision, inputs, reference)
            some = slice(options.gpu_prompts)
            on_gpu = gates.gpu_gates(path, precision, inputs[some], outputs[some], options.gpu, stage)
            checks += [check, *(reported(c, options.gpu) for c in on_gpu)]
        made = report.as_json(
            checks, name=f"{variant.artefact}_text", weights=about, prompts=list(PROMPTS), runtime_rules=options.runtime
        )
        bundle.write_json(staged.folder / bundle.TEXT_REPORT, made)
        save_reference(staged.folder / bundle.TEXT_REFERENCE, inputs, reference)
        ops = {c.subject: c.figures["ops"] for c in checks if c.gate == "graph"}
        manifest["logit_scale"] = weights.logit_scale
        manifest["text"] = {
            "files": {f.name: parts.file_entry(f, precision=p, ops=ops[f.name]) for p, f in files.items()},
            "signature": SIGNATURE,
            "input": {"name": "tokens", "dtype": "int32", "shape": [1, config.context_length]},
            "output": {"name": "text_embedding", "dtype": "float32", "shape": [1, config.output_dim]},
            "tokenizer": tokenize.name,
            "context_length": config.context_length,
            "start_of_text": tokenize.start,
            "end_of_text": tokenize.end,
            "logit_scale": weights.logit_scale,
            "weights": about,
            "scales": asdict(scales),
            "versions": report.versions(),
        }
        if report.failed(checks):
            bundle.write_json(staged.folder / bundle.MANIFEST, manifest)
            return Result(staged.reject(), False, checks, manifest, made)
        return Result(parts.add(staged, manifest), True, checks, manifest, made)


@torch.no_grad()
def max_difference(model: Any, scales: Scales, tokens: Tensor, end: int, keep_norm_weights: bool = False) -> float:
    """Largest |difference| between open_clip's text tower and its rewrite, in float64, part by part: stem, every block
    (each fed what open_clip's before it made), and the tail.

    Args:
        model: open_clip's tower, any dtype; not touched.
        scales, end, keep_norm_weights: as `rewrite_text` takes them.
        tokens: `[1, context_length]` int32.
    """

    def float64(module: Any) -> Any:
        return copy.deepcopy(module).double()

    def centred(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True))[:, None]

    mask = model.attn_mask.double()
    theirs = model.token_embedding(tokens).double() + model.positional_embedding.double()
    found = [TextStem(model, scales, torch.float64)(tokens) / scales.stream - centred(theirs)]
    for i, block in enumerate(model.transformer.resblocks):
        ours = rewrite_text_block(model, i, scales, torch.float64, keep_norm_weights)(centred(theirs) * scales.stream)
        theirs = float64(block)(theirs, attn_mask=mask)
        found.append(ours / scales.stream - centred(theirs))
    pool, norm, head = rewrite_text_tail(model, scales, end, torch.float64)
    ours = head(norm(pool(centred(theirs) * scales.stream, tokens)).flatten(1))
    pooled = float64(model.ln_final)(theirs)[:, int(tokens.argmax())]
    found.append(ours - F.normalize(pooled @ model.text_projection.double(), dim=-1))
    return max(float(difference.abs().max()) for difference in found)


def _fit_scales(model: Any, end: int, tokens: Sequence[Tensor]) -> tuple[Scales, list[headroom.Reduction]]:
    """The scales that the tower asks for on these ids, and its reductions under them."""
    first = Scales()
    tower: Any = rewrite_text(model, first, end)
    reductions = headroom.measure(tower, first, tokens)
    scales = headroom.choose_scales(reductions)
    return scales, headroom.rescaled(reductions, scales)


def reported(check: Check, gpu: str) -> Check:
    """A failure that concerns the GPU alone is a finding, not a verdict, unless `--require-gpu` asks for one."""
    if check.outcome != "failed" or gpu == "require":
        return check
    return replace(check, outcome="skipped", detail=f"reported only, this tower is for the CPU: {check.detail}")
