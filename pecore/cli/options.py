"""What several verbs' options have in common."""

from pathlib import Path

from pecore.errors import InputError


def weights_source(weights: str, checkpoint: Path | None) -> str | Path:
    """What `--weights` and `--checkpoint` name together: `hub`, `synthetic`, or a file, which wins.

    Raises:
        InputError: `--weights` is neither.
    """
    if weights not in ("hub", "synthetic"):
        raise InputError(f"unknown weights {weights!r}: choose hub or synthetic; a file goes with --checkpoint FILE")
    return checkpoint or weights
