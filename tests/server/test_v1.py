"""OpenAI's and Jina's shapes, search and classification."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pecore.encoder import PerceptionEncoder
from pecore.index import open_index
from pecore.index_writer import ImageFile, IndexWriter
from pecore.tokenizer import read_tokenizer
from tests.server.payloads import base64_of, of
from tests.server.tiny_bundle import MODEL_ID

SAME = 1e-6
Serve = Callable[..., TestClient]


def rows(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert [one["index"] for one in answer.json()["data"]] == list(range(len(answer.json()["data"])))
    return np.array([one["embedding"] for one in answer.json()["data"]])


def test_embeddings_of_texts(serve: Serve, encoder: PerceptionEncoder, server_bundle: Path) -> None:
    client = serve()
    texts = ["a photo of a cat", "a dog"]
    answer = client.post("/v1/embeddings", json={"model": MODEL_ID, "input": texts})
    np.testing.assert_allclose(rows(answer), encoder.embed_text(texts), atol=SAME)
    count = read_tokenizer(server_bundle / "tokenizer.json").count
    assert answer.json()["usage"] == {"prompt_tokens": sum(map(count, texts)), "total_tokens": sum(map(count, texts))}
    assert answer.json()["model"] == MODEL_ID
    answer = client.post("/v1/embeddings", json={"input": texts[0], "dimensions": encoder.dim})
    np.testing.assert_allclose(rows(answer), encoder.embed_text(texts[0]), atol=SAME)


def test_embeddings_in_base64_have_every_bit(serve: Serve) -> None:
    client = serve()
    floats = rows(client.post("/v1/embeddings", json={"input": "a cat"}))
    answer = client.post("/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"})
    found = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    assert np.array_equal(found, floats[0].astype(np.float32))


def test_embeddings_of_images_among_texts(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    data = base64_of(photo)
    mixed = [{"image": data}, {"text": "a cat"}, "a cat", {"image": "data:image/png;base64," + data}]
    found = rows(serve().post("/v1/embeddings", json={"input": mixed}))
    image, text = encoder.embed_image(photo)[0], encoder.embed_text("a cat")[0]
    np.testing.assert_allclose(found, [image, text, text, image], atol=SAME)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": [[1, 2, 3]]},
        {"input": [15339, 1917]},
        {"input": {"text": "a"}},
        {"input": [{"text": "a", "image": "b"}]},
        {"input": "a", "encoding_format": "binary"},
        {"input": "a", "dimensions": "512"},
        {"input": "a", "dimensions": 256},
        {"input": "a", "model": 5},
        {"input": "a" * 8193},
    ],
)
def test_fields_of_another_kind(serve: Serve, body: Any) -> None:
    answer = serve().post("/v1/embeddings", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "bad_field"


def test_models(serve: Serve, encoder: PerceptionEncoder) -> None:
    client = serve()
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["dimensions"]) == (MODEL_ID, "model", encoder.dim)
    assert model["synthetic_weights"]
    assert client.get(f"/v1/models/{MODEL_ID}").json() == model
    assert client.get("/v1/models/gpt-4").status_code == 404
    answer = client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert MODEL_ID in answer.json()["error"]["message"]


def test_classify(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    answer = serve().post("/v1/classify", json={"image": of(base64_of(photo)), "top": 3.0})
    assert answer.status_code == 200, answer.text
    found, wanted = answer.json()["data"], encoder.classify(photo, 3)
    assert [one["label"] for one in found] == [one.label for one in wanted]
    np.testing.assert_allclose([one["cosine"] for one in found], [one.cosine for one in wanted], atol=SAME)
    # The logit scale of 100 stands before the cosines: 1e-6 there is 1e-4 here.
    np.testing.assert_allclose([one["probability"] for one in found], [one.probability for one in wanted], atol=1e-4)


def test_search(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image, tmp_path: Path) -> None:
    embeddings = encoder.embed_image([photo, photo.rotate(180)])
    about = {"bundle": "b", "file": "f", "backend": "cpu", "space": encoder.bundle.space}
    writer = IndexWriter(str(tmp_path / "i.lance"), about, encoder.dim)
    writer.add([ImageFile("cat.jpg", 1, 1), ImageFile("taco.jpg", 2, 2)], embeddings)
    client = serve(index=open_index(tmp_path / "i.lance"))
    answer = client.post("/v1/search", json={"image": base64_of(photo), "top": 1})
    (found,) = answer.json()["data"]
    assert found["path"] == "cat.jpg"
    assert found["cosine"] == pytest.approx(1, abs=SAME)
    answer = client.post("/v1/search", json={"text": "a cat"})
    wanted = np.sort(embeddings @ encoder.embed_text("a cat")[0])[::-1]
    np.testing.assert_allclose([one["cosine"] for one in answer.json()["data"]], wanted, atol=SAME)
    for body in (
        {"text": "a", "image": base64_of(photo)},
        {"top": 3},
        {"text": "a", "top": 0},
        {"text": "a", "top": True},
    ):
        assert client.post("/v1/search", json=body).status_code == 422


def test_what_the_server_was_not_started_with(serve: Serve, bundle_without_text: Path, photo: Image.Image) -> None:
    client = serve(bundle_without_text)
    assert client.post("/v1/search", json={"image": base64_of(photo)}).json()["error"]["code"] == "no_index"
    assert client.post("/v1/classify", json={"image": base64_of(photo)}).json()["error"]["code"] == "no_labels"
    assert client.post("/v1/embeddings", json={"input": "a"}).json()["error"]["code"] == "no_text_tower"


def test_a_bundle_of_features_is_for_the_page(
    serve: Serve, server_bundle: Path, photo: Image.Image, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(server_bundle, tmp_path / "features"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"][0]["name"] = "features"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    client = serve(folder)
    for path, body in (("/v1/embeddings", {"input": "a cat"}), ("/v1/classify", {"image": base64_of(photo)})):
        answer = client.post(path, json=body)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in ("no_embedding", "no_labels")
    assert client.post("/v1/embeddings", json={"input": "a"}).json()["error"]["code"] == "no_embedding"
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/models").json()["data"][0]["dimensions"] is None
