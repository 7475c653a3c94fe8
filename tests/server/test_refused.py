"""What is refused, with which status, and in a body that both clients read."""

import base64
import json
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pecore.server.errors import ApiError
from pecore.server.images import decode
from pecore.server.options import Limits
from pecore.server.page import HEADERS
from tests.server.payloads import base64_of, of

Serve = Callable[..., TestClient]
EMBED_IMAGE, EMBED_TEXT = "/perception_encoder/embed_image", "/perception_encoder/embed_text"


def check(answer: Any, status: int, code: str, words: str) -> None:
    """The error as Roboflow's SDK and OpenAI's read it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"message", "error"}
    assert body["error"].keys() == {"message", "type", "code"}
    assert body["message"] == body["error"]["message"]
    assert body["error"]["code"] == code
    assert words in body["message"]
    assert "\n" not in body["message"]
    assert answer.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png() -> bytes:
    """30000 x 30000 grey pixels in 112 KB: a whole image, 900 MB when it is decoded."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    rows = zlib.compress(b"\0" * (30000 * (1 + 30000 // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
PNG = base64_of(Image.new("RGB", (8, 8)))
BAD_IMAGES: dict[str, tuple[bytes | str, str]] = {
    "a path": ("/etc/passwd", "is not an image in base64"),
    "a path of base64's letters": ("/etc/passwdx", "is no image"),
    "a folder": ("../../../etc", "is not an image in base64"),
    "an address": ("http://169.254.169.254/latest", "is not an image in base64"),
    "a file's address": ("file:///etc/passwd", "is not an image in base64"),
    "a data URL that is not base64": ("data:image/svg+xml,<svg/>", "is not an image in base64"),
    "nothing": ("", "is no image"),
    "letters that are not ASCII": ("ü" * 8, "is not an image in base64"),
    "a huge image": (huge_png(), "megapixels"),
    "an EPS": (EPS, "is no image"),
    "a pickle": (pickle.dumps([1, 2, 3]), "is no image"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
    "a TIFF, which is not on the list": (base64_of(Image.new("RGB", (8, 8)), "TIFF"), "is no image"),
    "half a PNG": (base64.b64decode(base64_of(Image.effect_noise((64, 64), 9)))[:999], "can't be"),
    "a PNG whose header lies": (base64.b64decode(PNG).replace(b"\0\0\0\x08\0\0\0\x08", b"\0\0\x10\0\0\0\x10\0"), ""),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_no_image(serve: Serve, name: str) -> None:
    given, words = BAD_IMAGES[name]
    text = given if isinstance(given, str) else base64.b64encode(given).decode()
    client = serve()
    check(client.post(EMBED_IMAGE, json={"image": of(text)}), 400, "bad_image", words)
    check(client.post("/v1/embeddings", json={"input": [{"image": text}]}), 400, "bad_image", "input[0].image")
    answer = client.post("/perception_encoder/compare", json={"subject": text, "prompt": "a cat"})
    check(answer, 400, "bad_image", "subject")


def test_the_size_is_read_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    given = base64_of(Image.new("RGB", (11, 10)))
    monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(self))
    with pytest.raises(ApiError, match=r"image is 11 x 10 pixels, and the limit is 0\.0001 megapixels"):
        decode(given, "image", 100)
    assert not decoded


@pytest.mark.parametrize("kind", ["url", "numpy", "numpy_object", "multipart", "file", ""])
def test_kinds_of_image_that_are_not_taken(serve: Serve, kind: str) -> None:
    answer = serve().post(EMBED_IMAGE, json={"image": {"type": kind, "value": "x"}})
    check(answer, 422, "bad_field", "no address is fetched, no pickle opened")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (EMBED_IMAGE, {}, "'image'"),
        (EMBED_IMAGE, {"image": None}, "image"),
        (EMBED_IMAGE, {"image": {"type": "base64"}}, "image"),
        (EMBED_IMAGE, {"image": [{"type": "base64", "value": 5}]}, "image"),
        (EMBED_IMAGE, {"image": []}, "image"),
        (EMBED_TEXT, {"text": 5}, "text"),
        (EMBED_TEXT, {"text": ["a", None]}, "text"),
        (EMBED_TEXT, {"text": "a", "perception_encoder_version_id": 7}, "perception_encoder_version_id"),
        (EMBED_TEXT, {"text": "a", "api_key": 7}, "api_key"),
        ("/model/add", {}, "'model_id'"),
        ("/v1/classify", {"image": PNG, "top": "3"}, "top"),
        ("/v1/classify", {"image": PNG, "top": 1e999}, "top"),
        ("/v1/classify", {"image": PNG, "top": 101}, "top"),
    ],
)
def test_fields_are_named(serve: Serve, path: str, body: Any, field: str) -> None:
    check(serve().post(path, content=json.dumps(body).replace("Infinity", "1e999")), 422, "bad_field", field)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"text": "\\"", "a": ' + b"[" * 501 + b"]" * 501 + b"}",
        b'{"text": [' + b'"a",' * 10_001 + b'"a"]}',
        b'{"text": [' + b"1," * 40_000 + b"1]}",
        b'{"text": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json(serve: Serve, body: bytes) -> None:
    check(serve().post(EMBED_TEXT, content=body), 400, "bad_json", "the body is")


def test_brackets_and_quotes_in_a_text_are_text(serve: Serve) -> None:
    assert serve().post(EMBED_TEXT, json={"text": ['["{' * 2000, "\\"]}).status_code == 200


def test_a_batch_too_large(serve: Serve) -> None:
    client = serve(limits=Limits(batch=2))
    for path, body in [
        (EMBED_TEXT, {"text": ["a"] * 3}),
        (EMBED_IMAGE, {"image": [PNG] * 3}),
        ("/v1/embeddings", {"input": ["a"] * 3}),
        ("/perception_encoder/compare", {"subject": "a", "subject_type": "text", "prompt": ["a"] * 3}),
        (
            "/perception_encoder/compare",
            {"subject": "a", "subject_type": "text", "prompt": {"a": "a", "b": "b", "c": "c"}},
        ),
    ]:
        check(client.post(path, json=body), 400, "batch_too_large", "the limit is 2")
    assert client.post(EMBED_TEXT, json={"text": ["a"] * 2}).status_code == 200


def test_other_paths_and_methods(serve: Serve) -> None:
    client = serve()
    check(client.get("/nothing"), 404, "not_found", "/nothing")
    answer = client.get(EMBED_TEXT)
    check(answer, 405, "method_not_allowed", "takes no GET")
    assert answer.headers["allow"] == "POST"
    check(client.delete("/v1/models"), 405, "method_not_allowed", "takes no DELETE")


def test_a_wrong_key_by_each_road(serve: Serve) -> None:
    client = serve(api_key="s3cret")
    body = {"text": "a"}
    for answer in (
        client.post(EMBED_TEXT, json=body, params={"api_key": "wrong"}),
        client.post(EMBED_TEXT, json=body, headers={"Authorization": "Bearer wrong"}),
        client.post(EMBED_TEXT, json={**body, "api_key": "wrong"}),
        client.post(EMBED_TEXT, json={**body, "api_key": 5}),
        client.post(EMBED_TEXT, json={**body, "api_key": "wrong"}, headers={"Authorization": "Bearer s3cret"}),
        client.post(EMBED_TEXT, json=body, params={"api_key": ["s3cret", "wrong"]}),
        client.get("/v1/models", params={"api_key": "s3cre"}),
        client.get("/metrics", headers={"Authorization": "Bearer sécret".encode()}),
    ):
        check(answer, 401, "invalid_api_key", "is not the server's API key")
        assert "s3cret" not in answer.text
    for answer in (client.post(EMBED_TEXT, json=body), client.get("/v1/models"), client.post("/model/clear")):
        check(answer, 401, "invalid_api_key", "demands an API key")
    check(client.post(EMBED_TEXT, json=[1]), 401, "invalid_api_key", "demands")


def test_the_right_key_by_each_road(serve: Serve) -> None:
    client = serve(api_key="s3cret")
    body = {"text": "a"}
    assert client.post(EMBED_TEXT, json=body, params={"api_key": "s3cret"}).status_code == 200
    assert client.post(EMBED_TEXT, json=body, headers={"Authorization": "bearer s3cret"}).status_code == 200
    assert client.post(EMBED_TEXT, json={**body, "api_key": "s3cret"}).status_code == 200
    for path in ("/info", "/healthz", "/readiness", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_without_a_key_none_is_looked_at(serve: Serve) -> None:
    """OpenAI's client can't be made without one."""
    answer = serve().post(EMBED_TEXT, json={"text": "a", "api_key": "any"}, headers={"Authorization": "Bearer any"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9001", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_foreign_host(serve: Serve, host: str) -> None:
    client = serve()
    check(client.get("/info", headers={"Host": host}), 403, "foreign_host", "for 127.0.0.1 alone")


@pytest.mark.parametrize("host", ["localhost", "localhost:9001", "127.0.0.1:1", "[::1]:9001", "127.8.0.1"])
def test_this_machine_by_its_names(serve: Serve, host: str) -> None:
    assert serve().get("/info", headers={"Host": host}).status_code == 200


def test_another_host_where_other_machines_may_connect(serve: Serve) -> None:
    client = serve(loopback=False, api_key="k")
    assert client.get("/v1/models?api_key=k", headers={"Host": "photos.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9002", "http://[", ""])
def test_another_sites_page(serve: Serve, origin: str) -> None:
    """It can send a form's POST without asking first; it is refused before any work."""
    client = serve()
    check(client.post(EMBED_TEXT, json={"text": "a"}, headers={"Origin": origin}), 403, "foreign_origin", "")
    assert client.post(EMBED_TEXT, json={"text": "a"}, headers={"Origin": "http://127.0.0.1:9001"}).status_code == 200


def test_an_allowed_origin(serve: Serve) -> None:
    client = serve(allow_origins=("https://app.example",))
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = client.options(EMBED_TEXT, headers=asked | {"Access-Control-Request-Headers": "authorization"})
    assert preflight.status_code == 200
    answer = client.post(EMBED_TEXT, json={"text": "a"}, headers={"Origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert client.get("/info", headers={"Origin": "https://evil.example"}).status_code == 403
    assert "access-control-allow-origin" not in serve().get("/info").headers


def test_a_fault_of_ours_says_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve()

    def fail(texts: Any) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(client.app_state["service"].encoder, "embed_text", fail)
    answer = client.post(EMBED_TEXT, json={"text": "a"})
    check(answer, 500, "internal", "Internal error.")
    assert "secret" not in answer.text
    assert "the secret of the house" in caplog.text
    assert client.get("/readiness").status_code == 200  # and its place in the queue is free again
    assert client.app_state["service"].workers.items == 0


# What only a real connection shows.


def test_a_body_past_the_limit(live: Callable[..., Any]) -> None:
    server = live(Limits(body=1000))
    with server.client() as client:
        check(client.post(EMBED_TEXT, content=b"x" * 1001), 413, "body_too_large", "larger than")

        def chunks() -> Iterator[bytes]:
            for _ in range(200):
                yield b"x" * 100

        check(client.post(EMBED_TEXT, content=chunks()), 413, "body_too_large", "larger than")
        assert client.post(EMBED_TEXT, json={"text": "a"}).status_code == 200


def test_a_declared_length_is_refused_before_it_is_sent(live: Callable[..., Any]) -> None:
    server = live(Limits(body=1000))
    with server.connect() as connection:
        head = f"POST {EMBED_TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_bodies_are_bounded_together(live: Callable[..., Any]) -> None:
    server = live(Limits(bodies=1000))
    head = f"POST {EMBED_TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n".encode()
    with server.connect() as slow, server.client() as client:
        slow.sendall(head + b"x" * 800)
        deadline = 100
        while (answer := client.post(EMBED_TEXT, content=b"x" * 900)).status_code != 503 and deadline:
            deadline -= 1  # until the server has seen what the other one sent
        check(answer, 503, "busy", "other requests' bodies")
        assert answer.headers["retry-after"] == "1"
        slow.sendall(b"x" * 100)
        assert slow.recv(12) == b"HTTP/1.1 400"
        assert client.post(EMBED_TEXT, content=b"x" * 900).status_code == 400


def test_a_slow_body(live: Callable[..., Any]) -> None:
    server = live(Limits(body_seconds=0.2))
    with server.connect() as connection:
        head = f"POST {EMBED_TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20\r\n\r\n{{"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_no_host_at_all(live: Callable[..., Any]) -> None:
    server = live()
    with server.connect() as connection:
        connection.sendall(b"GET /info HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 403"


def test_noise(live: Callable[..., Any]) -> None:
    server = live()
    for noise in (
        b"\x16\x03\x01\0\xa5",
        b"GET /info\r\n\r\n",
        b"\0" * 100_000,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ):
        with server.connect() as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    with server.client() as client:
        assert client.get("/info").status_code == 200


def test_the_images_of_a_request_are_named(serve: Serve) -> None:
    answer = serve().post(EMBED_IMAGE, json={"image": [PNG, of("AAAA")]})
    check(answer, 400, "bad_image", "image[1]")
