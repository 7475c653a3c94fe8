"""An endpoint: one row of a table, of which both the routes and the OpenAPI document are made."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pecore.server.schema import Schema
from pecore.server.service import Service

Json = dict[str, Any]
Handler = Callable[[Service, Any], Coroutine[Any, Any, Any]]
"""(service, what was sent) -> the answer's JSON. What was sent is the body, checked, or the path's parameters."""


@dataclass(frozen=True)
class Endpoint:
    """What is answered at a path.

    request: of the body; None where there is none. response: of status 200; None where it is no JSON. public: needs no
    key.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    response: Schema | None
    request: Schema | None = None
    parameters: Mapping[str, Schema] | None = None
    public: bool = False

    @property
    def operation(self) -> str:
        """Its name in the document."""
        return self.path.strip("/").translate(str.maketrans("/.{}", "____")).strip("_") or "page"


def obj(properties: Mapping[str, Schema], required: tuple[str, ...] = (), **more: Any) -> Json:
    """Schema of an object."""
    schema: Json = {"type": "object", "description": "a JSON object", "properties": dict(properties), **more}
    return schema | ({"required": list(required)} if required else {})


def one_of(description: str, *branches: Schema) -> Json:
    """Schema of what fits one of the branches."""
    return {"description": description, "anyOf": list(branches)}


def list_of(item: Schema, description: str, **more: Any) -> Json:
    """Schema of a list."""
    return {"type": "array", "items": item, "description": description, **more}


def nullable(kind: str, description: str) -> Json:
    """Schema of a value that may be left out or null."""
    return {"type": [kind, "null"], "description": f"{description}, or null"}


def integer(description: str, least: int, most: int) -> Json:
    """Schema of a number of something."""
    return {"type": "integer", "minimum": least, "maximum": most, "description": f"{description}, {least} to {most}"}


NUMBER: Json = {"type": "number"}
STRING: Json = {"type": "string", "description": "a string"}
VECTOR: Json = {"type": "array", "items": NUMBER}
IMAGE_TEXT: Json = {
    "type": "string",
    "format": "base64-image",
    "description": "an image (JPEG, PNG, WebP, GIF or BMP) in base64 or as a data URL",
}
IMAGE: Json = one_of(
    "an image, {'type': 'base64', 'value': ...} or its base64 or data URL (no address is fetched, no pickle opened)",
    obj(
        {
            "type": {"type": "string", "enum": ["base64"], "description": "'base64'"},
            "value": IMAGE_TEXT,
        },
        ("type", "value"),
    ),
    IMAGE_TEXT,
)
API_KEY = nullable("string", "the server's key, where it has one and neither header nor query has it")


def text_schema(longest: int) -> Json:
    """Schema of a text."""
    return {"type": "string", "maxLength": longest, "description": f"a text of at most {longest} characters"}
