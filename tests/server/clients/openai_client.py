"""openai-python against a server, in an environment of its own: python openai_client.py ADDRESS PHOTO ANSWERS"""

import base64
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai

MODEL_ID = "PE-Core-T16-64"

address, photo, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
client = openai.OpenAI(base_url=f"{address}v1", api_key="not-looked-at", max_retries=0)
answers: list[dict[str, Any]] = []
texts = ["a photo of a cat", "two dogs"]
data = base64.b64encode(photo.read_bytes()).decode()

for asked in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
    for given in (texts, texts[:1], texts[0]):
        found = client.embeddings.create(model=MODEL_ID, input=given, **asked)
        vectors = [one.embedding for one in found.data]
        if asked.get("encoding_format") == "base64":  # asked for by name, it is handed on as it is
            vectors = [memoryview(base64.b64decode(vector)).cast("f").tolist() for vector in vectors]
        answers.append({"kind": "text", "given": given if isinstance(given, list) else [given], "found": vectors})
        assert found.usage.prompt_tokens > 0

images: Any = [{"image": f"data:image/jpeg;base64,{data}"}, {"image": data}]
found = client.embeddings.create(model=MODEL_ID, input=images)
answers.append({"kind": "image", "given": [data, data], "found": [one.embedding for one in found.data]})

assert [model.id for model in client.models.list()] == [MODEL_ID]
assert client.models.retrieve(MODEL_ID).owned_by == "pecore-litert"


def refusal(call: Callable[[], Any]) -> openai.APIStatusError:
    """The error that a call ends with."""
    try:
        call()
    except openai.APIStatusError as error:
        return error
    raise AssertionError("it was not refused")


embed = client.embeddings.create
for call, kind, code in (
    (partial(embed, model="gpt-4", input="a"), openai.NotFoundError, "model_not_found"),
    (partial(embed, model=MODEL_ID, input=["a"] * 9), openai.BadRequestError, "batch_too_large"),
    (partial(embed, model=MODEL_ID, input=[[1, 2]]), openai.UnprocessableEntityError, "bad_field"),
    (partial(client.models.retrieve, "gpt-4"), openai.NotFoundError, "model_not_found"),
):
    shown: Any = refusal(call)
    assert isinstance(shown, kind), shown
    assert shown.code == code, shown
    assert shown.body["message"], shown

target.write_text(json.dumps(answers))
