"""pecore compare"""

from typing import Annotated

import typer

from pecore.cli.inputs import (
    BackendOption,
    BundleOption,
    ComputeOption,
    EncoderChoice,
    JsonOption,
    TextCheckpointOption,
    ThreadsOption,
    VerboseOption,
    WeightsOption,
    modality_of,
    notes,
    open_encoder,
)
from pecore.console import progress, show, show_json, table
from pecore.errors import InputError

EXAMPLE = 'pecore compare photo.jpg "a photo of a cat" "a photo of a dog"'


def compare(
    subject: Annotated[str, typer.Argument(help="An image file, or a text.")],
    prompts: Annotated[list[str], typer.Argument(help="Texts, or image files.")],
    subject_type: Annotated[str | None, typer.Option(help="image or text; an image if there is such a file.")] = None,
    prompt_type: Annotated[str | None, typer.Option(help="image or text; images where there are such files.")] = None,
    bundle: BundleOption = None,
    text_checkpoint: TextCheckpointOption = None,
    backend: BackendOption = "cpu",
    weights: WeightsOption = None,
    compute: ComputeOption = "fp16",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Print the cosine of one image or text with each of several."""
    subject_is = modality_of(subject, subject_type, "--subject-type")
    kinds = {prompt: modality_of(prompt, prompt_type, "--prompt-type") for prompt in prompts}
    if len(set(kinds.values())) > 1:
        image = next(prompt for prompt, kind in kinds.items() if kind == "image")
        text = next(prompt for prompt, kind in kinds.items() if kind == "text")
        raise InputError(f"{image} is an image and {text!r} is a text; compare with one kind at a time")
    prompts_are = next(iter(kinds.values()))
    needs_text = "text" in (subject_is, prompts_are)
    choice = EncoderChoice(bundle, backend, weights, compute, threads, None, text_checkpoint, needs_text)
    encoder = open_encoder(choice, verbose)
    with progress(verbose) as log:
        log("comparing")
        cosines = encoder.compare(subject, prompts, subject_is, prompts_are)  # type: ignore[arg-type]
    rows = list(zip(prompts, cosines))
    if as_json:
        show_json(
            {
                "model": encoder.file.name,
                "backend": backend,
                "synthetic_weights": encoder.bundle.synthetic,
                "subject": subject,
                "subject_type": subject_is,
                "prompt_type": prompts_are,
                "cosines": [{"prompt": prompt, "cosine": cosine} for prompt, cosine in rows],
            }
        )
        return
    cells = [(prompt, f"{cosine:.4f}") for prompt, cosine in rows]
    show(table(f"{subject} ({subject_is})", ("prompt", ">cosine"), cells), *notes(encoder.bundle))
