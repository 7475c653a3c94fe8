"""Use converted Perception Encoder towers: `pecore.PerceptionEncoder`; the `pecore` command is in `pecore.cli`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pecore.encoder import PerceptionEncoder

__all__ = ["PerceptionEncoder"]


def __getattr__(name: str) -> Any:
    """Import the encoder, and the runtime with it, when it is asked for."""
    if name == "PerceptionEncoder":
        from pecore.encoder import PerceptionEncoder

        return PerceptionEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
