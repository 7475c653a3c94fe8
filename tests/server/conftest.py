"""A bundle of a one-block T16 at 64 pixels with labels and a narrow text tower, and servers of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from starlette.testclient import TestClient

from pecore.encoder import PerceptionEncoder
from pecore.server.app import create_app
from pecore.server.options import Limits, ServerOptions
from pecore.server.search_index import SearchIndex
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


class FakeIndex:
    """Remembers what it was asked."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.asked: list[tuple[np.ndarray, int]] = []

    def search(self, embedding: np.ndarray, top: int) -> list[tuple[str, float]]:
        self.asked.append((embedding, top))
        return [("shelf/cat.jpg", 0.5), ("shelf/dog.jpg", 0.25)][:top]


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(server_bundle: Path) -> Iterator[Serve]:
    """serve(bundle=..., index=..., limits=..., **options): a client of an application in this process."""
    clients = []

    def start(
        bundle: Path = server_bundle, index: SearchIndex | None = None, limits: Limits | None = None, **options: Any
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


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    return Image.fromarray(data.chelsea())
