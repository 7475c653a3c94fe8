"""The hub's client against a small server on this machine that speaks the hub's protocol: no network."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pecore.convert.synthetic import synthetic_state_dict
from pecore.variants import find

REPO = "timm/vit_pe_core_tiny_patch16_384.fb"
COMMIT = "c0ffee" + 34 * "0"
ROOT = Path(__file__).parents[2]

LOAD = """
from pecore.convert.checkpoint import load
from pecore.errors import InputError
from pecore.variants import find
try:
    print("took", load(find("T16"), log=print).source)
except InputError as error:
    print("refused", error)
"""

FETCH = """
from pecore.convert.hub import fetch
from pecore.errors import InputError
try:
    print("took", fetch("timm/vit_pe_core_tiny_patch16_384.fb", "model.safetensors", print))
except InputError as error:
    print("refused", error)
"""


@dataclass
class Hub:
    """What the server answers with: a status, or the file. etag: of what it says it has, where that is not `content`.
    seen: method and path of each request."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    address: str = ""
    seen: list[str] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    answers = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            answers.seen.append(f"{self.command} {self.path}")
            body = answers.content if answers.status == 200 else b""
            self.send_response(answers.status)
            headers = {}
            if answers.status == 200:
                etag = answers.etag or hashlib.sha256(body).hexdigest()
                headers = {"X-Repo-Commit": COMMIT, "ETag": '"' + "0" * 32 + '"', "X-Linked-Etag": f'"{etag}"'}
                headers["X-Linked-Size"] = str(len(body))
            for name, value in (headers | answers.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815 (the names that http.server calls)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield answers
    server.shutdown()
    server.server_close()


def ask(endpoint: str, home: Path, script: str = LOAD, **more: str) -> str:
    """What a script says in a process of its own: the client reads its settings when it is imported. Between its five
    tries it does not sleep."""
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT), **more}
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | ours
    done = subprocess.run(
        [sys.executable, "-c", f"import time\ntime.sleep = lambda seconds: None\n{script}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(synthetic_state_dict(find("T16")), path)
    return path.read_bytes()


def test_a_download_is_shown_in_bytes_and_then_cached(hub: Hub, weights: bytes, tmp_path: Path) -> None:
    hub.content = weights
    said = ask(hub.address, tmp_path).splitlines()
    assert said[-1] == f"took {REPO}@{COMMIT}"
    megabytes = f"{len(weights) / 1e6:.0f}"
    assert said[-2] == f"downloading model.safetensors: {megabytes} of {megabytes} MB"
    assert any(request.startswith(f"GET /{REPO}/resolve") for request in hub.seen)
    hub.seen.clear()
    assert ask(hub.address, tmp_path).splitlines() == [f"took {REPO}@{COMMIT}"]
    assert [request for request in hub.seen if "/resolve/" in request] == [
        f"HEAD /{REPO}/resolve/main/model.safetensors"
    ]
    assert ask("http://127.0.0.1:1", tmp_path, HF_HUB_OFFLINE="1").splitlines() == [f"took {REPO}@{COMMIT}"]


def test_wrong_bytes_of_the_right_length(hub: Hub, weights: bytes, tmp_path: Path) -> None:
    """Sound tensors, even: those of another checkpoint. Refused when they come, and from the cache."""
    hub.etag = hashlib.sha256(weights).hexdigest()
    hub.content = weights[:-4] + b"\x00\x00\x80\x3f"
    for endpoint in (hub.address, "http://127.0.0.1:1"):
        said = ask(endpoint, tmp_path).splitlines()[-1]
        assert said.startswith(
            "refused model.safetensors in the hub's cache is not the file that the hub names (sha256"
        )
        blob = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs" / hub.etag
        assert said.endswith(f"delete {blob} and try again")
    blob.unlink()
    hub.content = weights
    assert ask(hub.address, tmp_path).splitlines()[-1].startswith("took")


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, ["the hub answered 401", "log in (hf auth login, or HF_TOKEN)", "does not exist"]),
        (401, {"X-Error-Code": "GatedRepo"}, ["answered 401", "log in", "accept the terms at", REPO]),
        (403, {"X-Error-Code": "GatedRepo"}, ["answered 403", "log in", "accept the terms at", REPO]),
        (403, {"X-Error-Message": "no"}, ["answered 403", "log in", "accept the terms at"]),
        (404, {"X-Error-Code": "RepoNotFound"}, [f"has no repository {REPO} (404)", "HF_ENDPOINT"]),
        (404, {"X-Error-Code": "EntryNotFound"}, [f"has no model.safetensors in {REPO} (404)"]),
        (404, {}, [f"has no repository {REPO} (404)"]),
        (429, {}, ["answered 429, too many requests", "try again in some minutes"]),
        (500, {}, ["answered 500, it is out of order; try again later"]),
        (503, {}, ["answered 503, it is out of order; try again later"]),
        (418, {}, ["answered 418"]),
        (200, {}, ["is no hub; check HF_ENDPOINT and the proxy"]),
    ],
)
def test_each_answer_has_its_sentence(
    status: int, headers: dict[str, str], words: list[str], hub: Hub, tmp_path: Path
) -> None:
    hub.status, hub.headers = status, headers
    if status == 200:  # somebody's start page
        hub.status = 204
    (said,) = ask(hub.address, tmp_path, FETCH).splitlines()
    assert said.startswith(f"refused model.safetensors of {REPO} could not be fetched from the hub: ")
    for word in [*words, "--checkpoint FILE", "--weights synthetic"]:
        assert word in said


def test_no_network(tmp_path: Path) -> None:
    (said,) = ask("http://127.0.0.1:1", tmp_path, FETCH).splitlines()
    assert "there is no connection to http://127.0.0.1:1" in said
    assert "check the network" in said
    (said,) = ask("http://no-such-host.invalid", tmp_path, FETCH).splitlines()
    assert "there is no connection to http://no-such-host.invalid" in said


def test_offline_with_nothing_cached(tmp_path: Path) -> None:
    (said,) = ask("http://127.0.0.1:1", tmp_path, FETCH, HF_HUB_OFFLINE="1").splitlines()
    assert "it is not in the cache, and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE" in said


def test_a_download_that_breaks_off(hub: Hub, weights: bytes, tmp_path: Path) -> None:
    """The server says more bytes than it sends."""
    hub.content = weights[:1000]
    hub.headers = {"X-Linked-Size": str(len(weights))}
    said = ask(hub.address, tmp_path, FETCH).splitlines()[-1]
    assert said.startswith(f"refused model.safetensors of {REPO} could not be fetched from the hub: ")
    assert "try again" in said
