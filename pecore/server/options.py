"""What a server may be asked for, and how much of it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused beyond.

    batch: images or texts of one request. pixels: of one image, read from its header. body: bytes of one request.
    bodies: bytes of all the bodies that are held at a time. queue: images and texts that wait or run at a time.
    body_seconds: for a body to arrive. text: characters of one text; the tower reads its first few dozen tokens.
    decoders: threads that decode images.
    """

    batch: int = 8
    pixels: int = 50_000_000
    body: int = 64 * 2**20
    bodies: int = 256 * 2**20
    queue: int = 64
    body_seconds: float = 30.0
    text: int = 8192
    decoders: int = 2


@dataclass(frozen=True)
class ServerOptions:
    """Who may ask, and for what.

    loopback: only this machine can connect, so every request must name it in its Host header. api_key: demanded of
    every request but `/info`, `/healthz`, `/readiness` and the OpenAPI document. allow_origins: other sites whose pages
    may ask. clip_alias: `/clip/*` beside `/perception_encoder/*`.
    """

    loopback: bool = True
    api_key: str | None = None
    allow_origins: Sequence[str] = ()
    clip_alias: bool = False
    limits: Limits = Limits()
