"""OpenAI's `/v1/embeddings` and `/v1/models`, with images in Jina's form, and beside them search and classification."""

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pecore.server.endpoints import (
    API_KEY,
    IMAGE,
    NUMBER,
    STRING,
    VECTOR,
    Endpoint,
    Json,
    integer,
    list_of,
    nullable,
    obj,
    one_of,
    text_schema,
)
from pecore.server.options import Limits
from pecore.server.service import Service

MOST_FOUND = 100
STARTED = int(time.time())

USAGE = obj(
    {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}, ("prompt_tokens", "total_tokens")
)
EMBEDDING = obj(
    {
        "object": {"enum": ["embedding"]},
        "index": {"type": "integer"},
        "embedding": one_of("floats, or float32 in base64", VECTOR, STRING),
    },
    ("object", "index", "embedding"),
)
MODEL = obj(
    {"id": STRING, "object": {"enum": ["model"]}, "created": {"type": "integer"}, "owned_by": STRING}
    | {"dimensions": {"type": ["integer", "null"]}, "synthetic_weights": {"type": "boolean"}},
    ("id", "object", "created", "owned_by"),
)


def _listed(item: Json, *more: str, **properties: Json) -> Json:
    kinds: Json = {"object": {"enum": ["list"]}, "data": {"type": "array", "items": item}, "model": STRING}
    return obj(kinds | properties, ("object", "data", *more))


def endpoints(limits: Limits, dim: int | None) -> list[Endpoint]:
    """All of `/v1`; `dim` is the length of an embedding, None where the bundle gives none."""
    text = text_schema(limits.text)
    common = {"model": nullable("string", "the loaded model's name"), "api_key": API_KEY}
    by_text = obj({"text": text}, ("text",), additionalProperties=False)
    by_image = obj({"image": one_of(IMAGE["description"], *IMAGE["anyOf"])}, ("image",), additionalProperties=False)
    item = one_of("a text, {'text': ...} or {'image': base64 or a data URL}", text, by_text, by_image)
    inputs = one_of(
        f"{text['description']}, or a list of texts, {{'text': ...}} and {{'image': base64 or a data URL}}",
        text,
        list_of(item, "inputs", minItems=1, maxItems=limits.batch),
    )
    embeddings_request = obj(
        {
            "input": inputs,
            "encoding_format": {"type": "string", "enum": ["float", "base64"], "description": "'float' or 'base64'"},
            "dimensions": nullable("integer", f"{dim}, which embeddings can't be cut below")
            | {"enum": list(dict.fromkeys((dim, None)))},
            **common,
        },
        ("input",),
    )
    found = obj({"path": STRING, "cosine": NUMBER}, ("path", "cosine"))
    query = [{"required": [name], "not": {"required": [other]}} for name, other in _EITHER]
    search_request = obj(
        {"text": text, "image": IMAGE, "top": integer("how many to find", 1, MOST_FOUND), **common},
        anyOf=query,
        description="an object with either a text or an image",
    )
    prediction = obj(
        {"label": STRING, "index": {"type": "integer"}, "cosine": NUMBER, "probability": NUMBER},
        ("label", "index", "cosine", "probability"),
    )
    classify_request = obj(
        {"image": IMAGE, "top": integer("how many labels", 1, MOST_FOUND), **common},
        ("image",),
    )
    name = {"model": {"type": "string", "description": "a model's name"}}
    return [
        Endpoint("GET", "/v1/models", _models, "The model that is loaded", _listed(MODEL)),
        Endpoint("GET", "/v1/models/{model}", _model, "The model, by its name", MODEL, parameters=name),
        Endpoint(
            "POST",
            "/v1/embeddings",
            _embeddings,
            "Embeddings of texts and images, as OpenAI and Jina have it",
            _listed(EMBEDDING, "model", "usage", usage=USAGE),
            embeddings_request,
        ),
        Endpoint(
            "POST",
            "/v1/search",
            _search,
            "The images of the index that are nearest to a text or an image",
            _listed(found, "model", "time", time=NUMBER),
            search_request,
        ),
        Endpoint(
            "POST",
            "/v1/classify",
            _classify,
            "The likeliest labels of an image",
            _listed(prediction, "model", "time", time=NUMBER),
            classify_request,
        ),
    ]


_EITHER = (("text", "image"), ("image", "text"))


async def _models(service: Service, sent: Any) -> Json:
    return {"object": "list", "data": [_about(service)]}


async def _model(service: Service, sent: Json) -> Json:
    service.check_model(sent["model"])
    return _about(service)


def _about(service: Service) -> Json:
    about = {"id": service.model_id, "object": "model", "created": STARTED, "owned_by": "pecore-litert"}
    return about | {"dimensions": service.dim, "synthetic_weights": service.bundle.synthetic}


async def _embeddings(service: Service, sent: Json) -> Json:
    service.check_model(sent.get("model"))
    given = sent["input"] if isinstance(sent["input"], list) else [sent["input"]]
    service.check_batch(len(given))
    items = [_item(one, f"input[{i}]") for i, one in enumerate(given)]
    rows = await service.embed(items)
    encode: Callable[[np.ndarray], Any] = _base64 if sent.get("encoding_format") == "base64" else _floats
    tokens = sum(service.tokens(text) for kind, text, _ in items if kind == "text")
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": encode(row)} for i, row in enumerate(rows)],
        "model": service.model_id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _item(one: Any, where: str) -> tuple[str, Any, str]:
    if isinstance(one, str):
        return "text", one, where
    ((kind, given),) = one.items()
    return kind, given, f"{where}.{kind}"


def _floats(row: np.ndarray) -> list[float]:
    return row.tolist()


def _base64(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


async def _search(service: Service, sent: Json) -> Json:
    started = time.perf_counter()
    service.check_model(sent.get("model"))
    kind = "image" if "image" in sent else "text"
    found = await service.search(kind, sent[kind], int(sent.get("top", 10)))
    data = [{"path": one.path, "cosine": one.cosine} for one in found]
    return {"object": "list", "data": data, "model": service.model_id, "time": time.perf_counter() - started}


async def _classify(service: Service, sent: Json) -> Json:
    started = time.perf_counter()
    service.check_model(sent.get("model"))
    found = await service.classify(sent["image"], int(sent.get("top", 5)))
    data = [
        {"label": one.label, "index": one.index, "cosine": one.cosine, "probability": one.probability} for one in found
    ]
    return {"object": "list", "data": data, "model": service.model_id, "time": time.perf_counter() - started}
