"""Perception Encoder on LiteRT: `pecore.PerceptionEncoder` uses a converted bundle, `pecore.rewrite` rewrites a tower.

The `pecore` command is in `pecore.cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pecore.extras import missing_extra

if TYPE_CHECKING:
    from pecore.encoder import PerceptionEncoder
    from pecore.rewrites import rewrite

__all__ = ["PerceptionEncoder", "rewrite"]

HOMES = {"PerceptionEncoder": "pecore.encoder", "rewrite": "pecore.rewrites"}


def __getattr__(name: str) -> Any:
    """Import the encoder (LiteRT) or the rewrites (PyTorch) when they are asked for."""
    if name in HOMES:
        try:
            return getattr(import_module(HOMES[name]), name)
        except ModuleNotFoundError as error:
            raise ImportError(missing_extra(error) or str(error), name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
