"""Roboflow's inference-sdk against a server, in an environment of its own: python sdk.py ADDRESS PHOTO ANSWERS

Writes what was sent and what came back to ANSWERS, for `check_answers.py`; fails where an error is not shown.
"""

import base64
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError
from inference_sdk.http.utils.loaders import load_static_inference_input
from PIL import Image

MODEL_ID = "PE-Core-T16-64"

address, photo, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
client = InferenceHTTPClient(api_url=address, api_key="not-looked-at")
answers: list[dict[str, Any]] = []


def sent(image: Any) -> str:
    """What the SDK makes of an image: base64 of a JPEG or of the file."""
    ((encoded, _),) = load_static_inference_input(inference_input=image)
    return encoded


def note(kind: str, given: list[str], found: Any) -> None:
    answers.append({"kind": kind, "given": given, "found": found})


image = Image.open(photo).convert("RGB")
for one in (str(photo), image, np.asarray(image)[:, :, ::-1], base64.b64encode(photo.read_bytes()).decode()):
    note("image", [sent(one)], client.get_perception_encoder_image_embeddings(one)["embeddings"])
several = [image, image.rotate(90)]
found = client.get_perception_encoder_image_embeddings(several, perception_encoder_version=MODEL_ID)
note("image", [sent(one) for one in several], [one["embeddings"][0] for one in found])
with client.use_configuration(InferenceConfiguration(max_batch_size=2)):
    note("image", [sent(one) for one in several], client.get_perception_encoder_image_embeddings(several)["embeddings"])

texts = ["a photo of a cat", "two dogs"]
note("text", texts[:1], client.get_perception_encoder_text_embeddings(texts[0])["embeddings"])
note("text", texts, client.get_perception_encoder_text_embeddings(texts)["embeddings"])

found = client.clip_compare(image, texts)["similarity"]
note("compare", [sent(image), *texts], found)
note("text", texts[:1], client.get_clip_text_embeddings(texts[0])["embeddings"])
note("image", [sent(image)], client.get_clip_image_embeddings(image)["embeddings"])

info = client.get_server_info()
assert info.name == "pecore serve", info
assert [model.model_id for model in client.list_loaded_models().models] == [MODEL_ID]
assert [model.model_id for model in client.load_model(MODEL_ID).models] == [MODEL_ID]
assert [model.model_id for model in client.unload_model(MODEL_ID).models] == [MODEL_ID]
assert [model.model_id for model in client.unload_all_models().models] == [MODEL_ID]


def refusal(call: Callable[[], Any]) -> HTTPCallErrorError:
    """The error that a call ends with."""
    try:
        call()
    except HTTPCallErrorError as error:
        return error
    raise AssertionError("it was not refused")


embed_text = client.get_perception_encoder_text_embeddings
for call, status, words in (
    (partial(embed_text, "a", perception_encoder_version="PE-Core-G14-448"), 404, MODEL_ID),
    (partial(embed_text, ["a"] * 9), 400, "the limit is 8"),
    (partial(client.load_model, "yolov8n-640"), 404, MODEL_ID),
):
    shown = refusal(call)
    assert shown.status_code == status, shown
    assert words in str(shown.api_message), shown

target.write_text(json.dumps(answers))
