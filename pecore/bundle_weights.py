"""What a bundle was made from: its weights, loaded again and known to be the same, and what it was to give."""

from pathlib import Path

from convert.checkpoint import Weights, load
from convert.fingerprint import fingerprint
from convert.variants import Variant
from pecore.bundle import Bundle
from pecore.errors import InputError
from rewrites.output import Output


def weights_of(bundle: Bundle, checkpoint: Path | None = None) -> Weights:
    """The vision weights that `bundle` was made from: of `checkpoint`, or from where its manifest says they were.

    Synthetic ones are made again from their seed. Whatever the file's format, its tensors have to have the bundle's
    fingerprint (`convert.fingerprint`), so any of the three forms of one checkpoint will do.

    Raises:
        InputError: they can't be had, or are others.
    """
    variant, about = Variant(**bundle.manifest["variant"]), bundle.manifest["weights"]
    made_from = about["source"]
    origin: str | Path = about["kind"] if about["kind"] in ("hub", "synthetic") else Path(made_from)
    again = {"seed": about["seed"], "amplitude": about["amplitude"]} if about["synthetic"] and not checkpoint else {}
    weights = load(variant, checkpoint or origin, **again)
    if about.get("fingerprint") != fingerprint(weights.state_dict):
        raise InputError(f"{weights.source} is not what {bundle.folder} was made from, {made_from}: give that one")
    return weights


def output_of(bundle: Bundle) -> Output:
    """What the bundle's graphs give back."""
    return Output(**bundle.manifest["tower_output"])
