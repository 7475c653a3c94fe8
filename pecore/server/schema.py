"""The part of JSON Schema that the API uses, checked: a request is held against the very document that is served.

The `description` of a node, where no `anyOf` stands above it, completes the sentence "FIELD must be ...".
"""

from collections.abc import Callable, Mapping
from typing import Any

from pecore.server.errors import shown

Schema = Mapping[str, Any]

TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    # 10.0 is an integer to JSON Schema; True, which is an int to Python, is none.
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def problem(schema: Schema, value: Any, where: str = "the body") -> str | None:
    """Why `value`, as `json.loads` gives it, does not fit; None where it does. The batch limit, `maxItems`, is not
    looked at: exceeding it has a code of its own."""
    if not _fits(schema, value):
        return f"{where} must be {schema.get('description', 'something else')}, not {shown(value)}"
    for name in schema.get("required", ()):
        if isinstance(value, dict) and name not in value:
            return f"{where} lacks {name!r}"
    inner = []
    if isinstance(value, dict):
        rest = schema.get("additionalProperties")
        known = schema.get("properties", {})
        inner += [(known[name], one, _join(where, name)) for name, one in value.items() if name in known]
        if isinstance(rest, Mapping):
            inner += [(rest, one, _join(where, name)) for name, one in value.items() if name not in known]
    if isinstance(value, list) and "items" in schema:
        inner += [(schema["items"], one, f"{where}[{i}]") for i, one in enumerate(value)]
    inner += [(part, value, where) for part in schema.get("allOf", ())]
    return next((found for part in inner if (found := problem(*part))), None)


def _fits(schema: Schema, value: Any) -> bool:
    """The value itself, apart from what is in it; all of it for the branches of an `anyOf`."""
    kinds = schema.get("type", ())
    if kinds and not any(TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        return False
    if isinstance(value, list | dict):
        smallest = schema.get("minItems" if isinstance(value, list) else "minProperties", 0)
        if len(value) < smallest:
            return False
    if isinstance(value, dict) and schema.get("additionalProperties") is False and value.keys() - schema["properties"]:
        return False
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if "not" in schema and problem(schema["not"], value) is None:
        return False
    branches = schema.get("anyOf")
    return branches is None or any(problem(branch, value) is None for branch in branches)


def _join(where: str, name: str) -> str:
    shown_name = name if name.isidentifier() and name.isascii() else shown(name)
    return shown_name if where == "the body" else f"{where}.{shown_name}"
