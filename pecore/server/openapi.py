"""The OpenAPI document, made of the table that the routes are made of."""

from collections.abc import Sequence
from typing import Any

from pecore.server.endpoints import Endpoint, obj
from pecore.server.options import ServerOptions

PATH = "/openapi.json"

ERROR = obj(
    {
        "message": {"type": "string"},
        "error": obj(
            {"message": {"type": "string"}, "type": {"type": "string"}, "code": {"type": "string"}},
            ("message", "type", "code"),
        ),
    },
    ("message", "error"),
)

REFUSALS = {
    400: "A bad image, a batch that is too large, or a body that is no JSON",
    401: "No key, or a wrong one",
    403: "A foreign Host or Origin",
    404: "Another model, or something that this server was not started with",
    408: "The body came too slowly",
    413: "The body is too large",
    422: "A field that is missing or of another kind",
    500: "Internal error.",
    503: "Too much is waiting",
}
GET_REFUSALS = {401, 403, 404, 500, 503}


def document(endpoints: Sequence[Endpoint], options: ServerOptions, model_id: str) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, options)
    out: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "pecore serve", "version": "1", "description": f"Perception Encoder embeddings: {model_id}."},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR}},
    }
    if options.api_key is not None:
        out["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "query": {"type": "apiKey", "in": "query", "name": "api_key"},
        }
    return out


def _operation(one: Endpoint, options: ServerOptions) -> dict[str, Any]:
    guarded = options.api_key is not None and not one.public
    statuses = set(REFUSALS) if one.method == "POST" else set(GET_REFUSALS)
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answer: dict[str, Any] = {"application/json": {"schema": one.response}}
    if one.response is None:
        answer = {"text/plain": {"schema": {"type": "string"}}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.operation,
        "responses": {"200": {"description": "Done", "content": answer}}
        | {str(s): {"description": REFUSALS[s], **error} for s in sorted(statuses) if s != 401 or guarded},
    }
    if one.request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": one.request}}}
    if one.parameters:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schema} for name, schema in one.parameters.items()
        ]
    if guarded:
        operation["security"] = [{"bearer": []}, {"query": []}]
    return operation
