"""A bundle of a one-block T16 at 64 pixels with labels and a narrow text tower, and servers of it."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from skimage import data
from starlette.testclient import TestClient

from pecore.encoder import PerceptionEncoder
from pecore.index import Index
from pecore.server.app import create_app
from pecore.server.options import Limits, ServerOptions
from pecore.server.run import make_server, open_socket
from pecore.server.service import Service
from tests.server.tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def server_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vision, text and labels, of synthetic weights. Not to be written to."""
    folder = tmp_path_factory.mktemp("server") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def bundle_without_text(server_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nor labels."""
    folder = tmp_path_factory.mktemp("mute") / "bundle"
    shutil.copytree(server_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for section in ("text", "labels"):
        del manifest[section]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def encoder(server_bundle: Path) -> PerceptionEncoder:
    """What answers are compared with."""
    return PerceptionEncoder(server_bundle, threads=1)


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(server_bundle: Path) -> Iterator[Serve]:
    """serve(bundle=..., index=..., limits=..., **options): a client of an application in this process."""
    clients = []

    def start(
        bundle: Path = server_bundle, index: Index | None = None, limits: Limits | None = None, **options: Any
    ) -> TestClient:
        asked = ServerOptions(limits=limits or Limits(), **options)
        encoder = PerceptionEncoder(bundle, threads=1)
        labels = encoder.labels if encoder.bundle.manifest.labels else None
        service = Service(encoder, asked.limits, labels=labels, index=index)
        app = create_app(service, asked)
        client = TestClient(app, base_url="http://127.0.0.1:9001", raise_server_exceptions=False)
        client.app_state["service"] = service  # for tests that look behind it
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@dataclass
class Live:
    """A server in a thread, on a port of its own, as clients see it."""

    service: Service
    port: int
    log: list[dict[str, Any]]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False, **more)


@pytest.fixture
def live(server_bundle: Path) -> Iterator[Callable[..., Live]]:
    """live(limits=..., **options): a real server, ended after the test."""
    running = []

    def start(limits: Limits | None = None, **options: Any) -> Live:
        asked = ServerOptions(limits=limits or Limits(), **options)
        encoder = PerceptionEncoder(server_bundle, threads=1)
        service = Service(encoder, asked.limits, labels=encoder.labels)
        bound, up, log = open_socket("127.0.0.1", 0), threading.Event(), []
        server = make_server(create_app(service, asked, access=log.append), up.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        running.append((server, thread))
        assert up.wait(20)
        return Live(service, bound.getsockname()[1], log)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(40)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    return Image.fromarray(data.chelsea())
