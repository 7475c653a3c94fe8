"""Roboflow's contract: PerceptionEncoder's numbers in its shape."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pecore.encoder import PerceptionEncoder
from tests.server.payloads import base64_of, of
from tests.server.tiny_bundle import MODEL_ID

SAME = 1e-6  # the same file on the same CPU, threads apart; JSON keeps every bit
Serve = Callable[..., TestClient]


def test_images(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    client = serve()
    small = photo.resize((90, 60))
    wanted = encoder.embed_image([photo, small])
    forms: list[tuple[Any, np.ndarray]] = [
        (of(base64_of(photo)), wanted[:1]),
        (of("data:image/png;base64," + base64_of(photo)), wanted[:1]),
        (base64_of(photo), wanted[:1]),
        ([of(base64_of(photo)), of(base64_of(small, "BMP"))], wanted),
    ]
    for image, rows in forms:
        answer = client.post("/perception_encoder/embed_image", json={"image": image})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["embeddings"], rows, atol=SAME)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_format_that_is_taken(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image, form: str) -> None:
    import base64
    import io

    given = base64_of(photo, form)
    wanted = encoder.embed_image(Image.open(io.BytesIO(base64.b64decode(given))))
    answer = serve().post("/perception_encoder/embed_image", json={"image": of(given)})
    np.testing.assert_allclose(answer.json()["embeddings"], wanted, atol=SAME)


def test_an_image_is_turned_as_its_camera_says(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    import base64
    import io

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    photo.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    answer = serve().post(
        "/perception_encoder/embed_image", json={"image": of(base64.b64encode(turned.getvalue()).decode())}
    )
    np.testing.assert_allclose(answer.json()["embeddings"], encoder.embed_image(photo), atol=SAME)


def test_texts(serve: Serve, encoder: PerceptionEncoder) -> None:
    client = serve()
    texts = ["a photo of a cat", "", "Ü 🐈 " * 50]
    for given, wanted in [(texts, encoder.embed_text(texts)), (texts[0], encoder.embed_text(texts[0]))]:
        answer = client.post("/perception_encoder/embed_text", json={"text": given})
        np.testing.assert_allclose(answer.json()["embeddings"], wanted, atol=SAME)


def test_the_answer_has_what_the_sdk_reads(serve: Serve) -> None:
    client = serve()
    first, second = (client.post("/perception_encoder/embed_text", json={"text": "a"}).json() for _ in range(2))
    assert first.keys() == {"embeddings", "time", "inference_id", "frame_id", "parent_id"}
    assert first["time"] > 0
    assert first["frame_id"] is first["parent_id"] is None
    assert first["inference_id"] != second["inference_id"]


def test_compare(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    client = serve()
    image, text = of(base64_of(photo)), "a photo of a cat"
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"subject": image, "prompt": text}, (photo, text, "image", "text")),
        ({"subject": image, "prompt": [text, "a dog"]}, (photo, [text, "a dog"], "image", "text")),
        ({"subject": image, "prompt": {"c": text, "d": "a dog"}}, (photo, {"c": text, "d": "a dog"}, "image", "text")),
        # Words that happen to be an image's keys are names, where texts are asked for.
        (
            {"subject": text, "subject_type": "text", "prompt": {"type": "a", "value": "b"}, "prompt_type": "text"},
            (text, {"type": "a", "value": "b"}, "text", "text"),
        ),
        (
            {"subject": text, "subject_type": "text", "prompt": image, "prompt_type": "image"},
            (text, photo, "text", "image"),
        ),
        (
            {"subject": image, "prompt": {"one": image, "two": image["value"]}, "prompt_type": "image"},
            (photo, {"one": photo, "two": photo}, "image", "image"),
        ),
    ]
    for body, arguments in cases:
        answer = client.post("/perception_encoder/compare", json=body)
        assert answer.status_code == 200, answer.text
        found, wanted = answer.json()["similarity"], encoder.compare(*arguments)
        if isinstance(wanted, dict):
            assert found.keys() == wanted.keys()
            found, wanted = list(found.values()), list(wanted.values())
        np.testing.assert_allclose(found, wanted, atol=SAME)


@pytest.mark.parametrize(
    "body",
    [
        {"subject": "a cat", "subject_type": "text", "prompt": 5},
        {"subject": "a cat", "subject_type": "sound", "prompt": "a"},
        {"subject": ["a", "b"], "subject_type": "text", "prompt": "a"},
        {"subject": "a cat", "subject_type": "text", "prompt": []},
        {"subject": "a cat", "subject_type": "text", "prompt": {}},
        {"subject": {"type": "base64", "value": "x"}, "subject_type": "text", "prompt": "a"},
        {"prompt": "a"},
        {"subject": "a", "prompt": {"a": ["b"]}, "subject_type": "text"},
        [],
        "a",
        5,
    ],
)
def test_what_compare_does_not_take(serve: Serve, body: Any) -> None:
    answer = serve().post("/perception_encoder/compare", json=body)
    assert answer.status_code == 422, answer.text


def test_the_model_that_is_loaded(serve: Serve) -> None:
    client = serve()
    for name in (MODEL_ID, f"perception_encoder/{MODEL_ID}", None):
        body = {"text": "a", "perception_encoder_version_id": name}
        assert client.post("/perception_encoder/embed_text", json=body).status_code == 200
    body = {"text": "a", "perception_encoder_version_id": "PE-Core-G14-448"}
    answer = client.post("/perception_encoder/embed_text", json=body)
    assert answer.status_code == 404
    assert MODEL_ID in answer.json()["message"]
    assert "PE-Core-G14-448" in answer.json()["message"]


def test_the_registry(serve: Serve) -> None:
    client = serve()
    registry = client.get("/model/registry").json()
    assert registry["models"] == [
        {"model_id": MODEL_ID, "task_type": "embedding", "batch_size": 8, "input_height": 64, "input_width": 64}
    ]
    assert client.post("/model/add", json={"model_id": MODEL_ID}).json() == registry
    assert client.post("/model/remove", json={"model_id": MODEL_ID}).json() == registry
    assert client.post("/model/clear").json() == registry
    for verb in ("add", "remove"):
        answer = client.post(f"/model/{verb}", json={"model_id": "yolov8n-640"})
        assert answer.status_code == 404
        assert MODEL_ID in answer.json()["message"]


def test_about_the_server(serve: Serve) -> None:
    client = serve()
    info = client.get("/info").json()
    assert info.keys() == {"name", "version", "uuid"}
    assert client.get("/info").json() == info
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readiness").json() == {"status": "ready"}


def test_the_clip_alias_is_opt_in(serve: Serve, encoder: PerceptionEncoder) -> None:
    assert serve().post("/clip/embed_text", json={"text": "a"}).status_code == 404
    client = serve(clip_alias=True)
    answer = client.post("/clip/compare", json={"subject": "a", "subject_type": "text", "prompt": "b"})
    np.testing.assert_allclose(answer.json()["similarity"], encoder.compare("a", "b", "text"), atol=SAME)
    answer = client.post("/clip/embed_text", json={"text": "a", "clip_version_id": "ViT-B-16"})
    assert answer.status_code == 404


def test_without_a_text_tower(serve: Serve, bundle_without_text: Any, photo: Image.Image) -> None:
    client = serve(bundle_without_text)
    answer = client.post("/perception_encoder/embed_text", json={"text": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_text_tower")
    assert client.post("/perception_encoder/embed_image", json={"image": base64_of(photo)}).status_code == 200


def test_an_address_with_a_slash_at_its_end(serve: Serve) -> None:
    """The SDK adds another: InferenceHTTPClient("http://127.0.0.1:9001/")."""
    scope_path = "//perception_encoder/embed_text"
    assert serve().post(f"http://127.0.0.1:9001{scope_path}", json={"text": "a"}).status_code == 200
