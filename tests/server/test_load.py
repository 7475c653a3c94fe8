"""The queue, clients that go away, and the end of a server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pecore.server.options import Limits
from tests.server.payloads import base64_of

EMBED_TEXT = "/perception_encoder/embed_text"
ROOT = Path(__file__).parents[2]
PATIENCE = 20  # seconds, for what takes milliseconds


class Gate:
    """A model that stands still until it is let go; counts what it was asked."""

    def __init__(self, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.asked = threading.Event(), []
        embed = service.encoder.embed_text

        def gated(text: str) -> np.ndarray:
            self.asked.append(text)
            assert self.open.wait(PATIENCE)
            return embed(text)

        monkeypatch.setattr(service.encoder, "embed_text", gated)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_beyond_the_queue_is_a_503(live: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server = live(Limits(queue=2))
    gate = Gate(server.service, monkeypatch)
    with server.client() as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, EMBED_TEXT, json={"text": text}) for text in ("a", "b")]
        until(lambda: server.service.workers.items == 2)
        refused = client.post(EMBED_TEXT, json={"text": "c"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/readiness").status_code == 503
        assert client.get("/healthz").status_code == 200
        gate.open.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert client.post(EMBED_TEXT, json={"text": "c"}).status_code == 200
    assert sorted(gate.asked) == ["a", "b", "c"]


def test_a_client_that_goes_away_is_dropped_from_the_queue(
    live: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = live()
    gate = Gate(server.service, monkeypatch)
    with server.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, EMBED_TEXT, json={"text": "stays"})
        until(lambda: gate.asked == ["stays"])
        body = json.dumps({"text": ["leaves", "leaves too"]})
        with server.connect() as leaving:
            head = f"POST {EMBED_TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body.encode())
            until(lambda: server.service.workers.items == 3)
        until(lambda: server.service.workers.items == 1)
        gate.open.set()
        assert first.result().status_code == 200
        assert client.post(EMBED_TEXT, json={"text": "next"}).status_code == 200
    assert gate.asked == ["stays", "next"]
    assert 499 in [entry["status"] for entry in server.log]


def test_right_answers_among_bad_requests(live: Callable[..., Any], photo: Image.Image) -> None:
    """Eight clients at a time, each with an image of its own, while four others send nonsense."""
    server = live()
    images = [photo.rotate(angle) for angle in range(0, 360, 45)]
    wanted = [server.service.encoder.embed_image(image)[0] for image in images]
    bad: list[Any] = [b"{", b"[]", b'{"image": "/etc/passwd"}', b'{"image": {"type": "url", "value": "x"}}']
    with server.client() as client, ThreadPoolExecutor(12) as pool:

        def ask(image: Image.Image) -> Any:
            return client.post("/perception_encoder/embed_image", json={"image": base64_of(image)}).json()[
                "embeddings"
            ][0]

        answers = [pool.submit(ask, image) for _ in range(4) for image in images]
        refused = [pool.submit(client.post, "/perception_encoder/embed_image", content=body) for body in bad * 10]
        for answer, row in zip(answers, wanted * 4):
            np.testing.assert_allclose(answer.result(), row, atol=1e-6)
        assert {one.result().status_code for one in refused} == {400, 422}


def test_metrics(serve: Callable[..., TestClient]) -> None:
    client = serve()
    client.post(EMBED_TEXT, json={"text": ["a", "b"]})
    client.get("/made/up/by/a/client")
    text = client.get("/metrics").text
    assert f'pecore_requests_total{{path="{EMBED_TEXT}",status="200"}} 1.0' in text
    assert 'pecore_requests_total{path="other",status="404"} 1.0' in text
    assert 'pecore_embedding_seconds_count{kind="text"} 2.0' in text
    assert "pecore_queue_items 0.0" in text
    assert "made/up" not in text


def test_the_access_log_holds_no_key(live: Callable[..., Any]) -> None:
    server = live(api_key="s3cret")
    with server.client() as client:
        client.get("/v1/models?api_key=s3cret")
    (entry,) = server.log
    assert entry.keys() == {"time", "client", "method", "path", "status", "bytes", "ms"}
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/v1/models", 200)
    assert "s3cret" not in json.dumps(entry)


class Process:
    """`pecore serve BUNDLE --port 0 --json`, a process of its own in which PyTorch and the other extras' packages can't
    be imported."""

    def __init__(self, bundle: Path, *more: str) -> None:
        # A background job of a shell has SIGINT ignored, and its children too.
        heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        blocked = "import sys; from tests.base.exercise import Blocker; sys.meta_path.insert(0, Blocker())"
        program = f"{heard}; {blocked}; from pecore.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", str(bundle), "--port", "0", "--json", *more]
        self.child = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.child.stdout is not None
        self.listening = json.loads(self.child.stdout.readline() or "{}")


def taken(metrics: str, texts: int) -> float:
    """Requests of so many texts each that are answered or under way."""
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    answered = float(values.get(f'pecore_requests_total{{path="{EMBED_TEXT}",status="200"}}', 0))
    return answered + float(values["pecore_queue_items"]) / texts


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ending(server_bundle: Path, ending: signal.Signals) -> None:
    """What runs is finished, what comes later is not taken, and the exit code is 0."""
    server = Process(server_bundle, "--threads", "1")
    try:
        assert server.listening["event"] == "listening"
        assert server.listening["synthetic_weights"]
        with httpx.Client(base_url=server.listening["address"], timeout=60, trust_env=False) as client:
            assert client.get("healthz").status_code == 200
            with ThreadPoolExecutor(8) as pool:
                texts = [f"{i} words " * 100 for i in range(8)]
                running = [pool.submit(client.post, EMBED_TEXT.lstrip("/"), json={"text": texts}) for _ in range(8)]
                # A connection that waits to be accepted isn't under way: it may be reset.
                until(lambda: taken(client.get("metrics").text, len(texts)) == len(running))
                os.kill(server.child.pid, ending)
                statuses = [one.result().status_code for one in running]
        out, errors = server.child.communicate(timeout=60)
        assert server.child.returncode == 0, errors
        assert set(statuses) <= {200}
        assert "Traceback" not in errors
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["path"] for line in lines].count(EMBED_TEXT) == len(running)
    finally:
        server.child.kill()
        server.child.wait()
