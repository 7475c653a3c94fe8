"""Roboflow's contract: what `inference-sdk` asks of an inference server that runs Perception Encoder."""

import time
import uuid
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pecore.server.endpoints import (
    API_KEY,
    IMAGE,
    NUMBER,
    STRING,
    VECTOR,
    Endpoint,
    Json,
    list_of,
    nullable,
    obj,
    one_of,
    text_schema,
)
from pecore.server.errors import busy
from pecore.server.options import Limits
from pecore.server.schema import Schema
from pecore.server.service import Service

SERVER_ID = str(uuid.uuid4())

PREFIXES = {"/perception_encoder": "perception_encoder_version_id", "/clip": "clip_version_id"}
"""Path -> the field that names the model. The SDK has no call for comparing but CLIP's."""

# The SDK takes an answer with a single key for a list of one, so these are always there.
ENVELOPE = {
    "time": NUMBER | {"description": "seconds"},
    "inference_id": STRING,
    "frame_id": {"type": "null"},
    "parent_id": {"type": "null"},
}
EMBEDDINGS = obj({"embeddings": {"type": "array", "items": VECTOR}, **ENVELOPE}, ("embeddings", *ENVELOPE))
SIMILARITY = obj(
    {
        "similarity": one_of("cosines", VECTOR, {"type": "object", "additionalProperties": NUMBER}),
        **ENVELOPE,
    },
    ("similarity", *ENVELOPE),
)
MODEL = obj(
    {
        "model_id": STRING,
        "task_type": STRING,
        "batch_size": {"type": "integer"},
        "input_height": {"type": "integer"},
        "input_width": {"type": "integer"},
    },
    ("model_id", "task_type"),
)
REGISTRY = obj({"models": {"type": "array", "items": MODEL}}, ("models",))
STATUS = obj({"status": STRING}, ("status",))
ANY_MODEL = obj({"model_id": STRING, "api_key": API_KEY}, ("model_id",))


def endpoints(limits: Limits, clip_alias: bool) -> list[Endpoint]:
    """All of the contract; `/clip/*` where the alias is wanted."""
    out = [
        Endpoint("GET", "/info", _info, "The server's name and version", _INFO, public=True),
        Endpoint("GET", "/healthz", _health, "The process answers", STATUS, public=True),
        Endpoint("GET", "/readiness", _readiness, "There is room in the queue; 503 where not", STATUS, public=True),
        Endpoint("GET", "/model/registry", _registry, "The model that is loaded", REGISTRY),
        Endpoint(
            "POST", "/model/add", _add, "The loaded model may be asked for; another is a 404", REGISTRY, ANY_MODEL
        ),
        Endpoint("POST", "/model/remove", _add, "The loaded model stays loaded; another is a 404", REGISTRY, ANY_MODEL),
        Endpoint("POST", "/model/clear", _registry, "The loaded model stays loaded", REGISTRY, None),
    ]
    for prefix in PREFIXES if clip_alias else ["/perception_encoder"]:
        out += _embedding_endpoints(prefix, limits)
    return out


def _embedding_endpoints(prefix: str, limits: Limits) -> list[Endpoint]:
    field = PREFIXES[prefix]
    common: dict[str, Schema] = {field: nullable("string", "the loaded model's name"), "api_key": API_KEY}
    text = text_schema(limits.text)
    images = one_of(
        "an image, {'type': 'base64', 'value': ...} or its base64 or data URL (no address is fetched, no pickle "
        "opened), or a list of them",
        *IMAGE["anyOf"],
        list_of(IMAGE, "images", minItems=1, maxItems=limits.batch),
    )
    texts = one_of(
        f"{text['description']} or a list of them", text, list_of(text, "texts", minItems=1, maxItems=limits.batch)
    )
    return [
        Endpoint(
            "POST",
            f"{prefix}/embed_image",
            partial(_embed, field, "image"),
            "Embeddings of an image or a list of them",
            EMBEDDINGS,
            obj({"image": images, **common}, ("image",)),
        ),
        Endpoint(
            "POST",
            f"{prefix}/embed_text",
            partial(_embed, field, "text"),
            "Embeddings of a text or a list of them",
            EMBEDDINGS,
            obj({"text": texts, **common}, ("text",)),
        ),
        Endpoint(
            "POST",
            f"{prefix}/compare",
            partial(_compare, field),
            "Cosines between a subject and prompts",
            SIMILARITY,
            _compare_schema(text, common, limits),
        ),
    ]


def _compare_schema(text: Schema, common: Mapping[str, Schema], limits: Limits) -> Json:
    """`subject` and `prompt` are of the kinds that `subject_type` and `prompt_type` say; an image and texts if they
    say nothing."""
    forms = {"image": IMAGE, "text": text}

    def several(kind: str) -> list[Schema]:
        item = forms[kind]
        bounds = {"maxProperties": limits.batch}
        named = {
            "type": "object",
            "additionalProperties": item,
            "minProperties": 1,
            "description": "named ones",
            **bounds,
        }
        if kind == "image":  # {"type": "base64", "value": ...} is one image
            named["not"] = {"required": ["type", "value"]}
        return [item, list_of(item, "prompts", minItems=1, maxItems=limits.batch), named]

    def kinds(name: str, default: str, shapes: Mapping[str, list[Schema]], more: str) -> Json:
        branches = []
        for kind, allowed in shapes.items():
            properties = {f"{name}_type": {"enum": [kind], "type": "string"}, name: {"anyOf": allowed}}
            required = [name] if kind == default else [name, f"{name}_type"]
            branches.append({"type": "object", "properties": properties, "required": required})
        what = f"what {name}_type says ({default!r} by default): an image in base64 for 'image', a text for 'text'"
        return {"anyOf": branches, "description": f"an object whose {name} is {what}{more}"}

    kind_schema = {"type": "string", "enum": ["image", "text"], "description": "'image' or 'text'"}
    shape = obj(
        {"subject": {"description": "one image or text"}, "prompt": {"description": "prompts"}}
        | {"subject_type": kind_schema, "prompt_type": kind_schema, **common},
        ("subject", "prompt"),
    )
    one = {kind: [form] for kind, form in forms.items()}
    many = {kind: several(kind) for kind in forms}
    shape["allOf"] = [
        kinds("subject", "image", one, ""),
        kinds("prompt", "text", many, ", or a list or object of them"),
    ]
    return shape


_INFO = obj({"name": STRING, "version": STRING, "uuid": STRING}, ("name", "version", "uuid"))


async def _info(service: Service, sent: Any) -> Json:
    try:
        installed = version("pecore-litert")
    except PackageNotFoundError:  # run from a folder
        installed = "unknown"
    return {"name": "pecore serve", "version": installed, "uuid": SERVER_ID}


async def _health(service: Service, sent: Any) -> Json:
    return {"status": "ok"}


async def _readiness(service: Service, sent: Any) -> Json:
    if service.workers.full:
        raise busy("the queue is full")
    return {"status": "ready"}


async def _registry(service: Service, sent: Any) -> Json:
    size = service.encoder.image_size
    model = {"model_id": service.model_id, "task_type": "embedding", "batch_size": service.limits.batch}
    return {"models": [model | {"input_height": size, "input_width": size}]}


async def _add(service: Service, sent: Json) -> Json:
    service.check_model(sent["model_id"])
    return await _registry(service, sent)


def _enveloped(content: Json, started: float) -> Json:
    ids = {"inference_id": str(uuid.uuid4()), "frame_id": None, "parent_id": None}
    return {**content, "time": time.perf_counter() - started, **ids}


async def _embed(field: str, kind: str, service: Service, sent: Json) -> Json:
    started = time.perf_counter()
    service.check_model(sent.get(field))
    given = sent[kind]
    if isinstance(given, list):
        items = [(kind, one, f"{kind}[{i}]") for i, one in enumerate(given)]
    else:
        items = [(kind, given, kind)]
    service.check_batch(len(items))
    return _enveloped({"embeddings": (await service.embed(items)).tolist()}, started)


async def _compare(field: str, service: Service, sent: Json) -> Json:
    started = time.perf_counter()
    service.check_model(sent.get(field))
    kind, prompt = sent.get("prompt_type", "text"), sent["prompt"]
    one_image = kind == "image" and isinstance(prompt, dict) and {"type", "value"} <= prompt.keys()
    named = isinstance(prompt, dict) and not one_image
    if named:
        prompts = {f"prompt.{ascii(name)[1:-1]}": one for name, one in prompt.items()}
    else:
        prompts = {f"prompt[{i}]": one for i, one in enumerate(prompt if isinstance(prompt, list) else [prompt])}
    service.check_batch(len(prompts))
    subject = (sent.get("subject_type", "image"), sent["subject"], "subject")
    rows = await service.embed([subject, *((kind, one, where) for where, one in prompts.items())])
    cosines = (rows[1:] @ rows[0]).tolist()
    return _enveloped({"similarity": dict(zip(prompt, cosines)) if named else cosines}, started)
