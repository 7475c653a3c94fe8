"""A request that is refused: one body that both clients read.

Roboflow's SDK shows the top-level `message`, OpenAI's the `error` object.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RETRY_AFTER = {"Retry-After": "1"}


@dataclass
class ApiError(Exception):
    """A status from 400 to 503, a sentence for people and a code for programs."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = {401: "authentication_error", 500: "server_error", 503: "server_error"}
        error = {"message": self.message, "type": kind.get(self.status, "invalid_request_error"), "code": self.code}
        return {"message": self.message, "error": error}


def bad_image(message: str) -> ApiError:
    """What was sent is no image that is taken here."""
    return ApiError(400, "bad_image", message)


def busy(what: str) -> ApiError:
    """More work than fits: the client is to come back."""
    return ApiError(503, "busy", f"{what}: try again in a second", RETRY_AFTER)


def shown(value: Any, longest: int = 60) -> str:
    """A value from a request, short and printable, for a sentence."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
