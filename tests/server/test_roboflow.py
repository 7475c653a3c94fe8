"""Roboflow's contract, as PerceptionEncoder's numbers in its shape."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pecore.encoder import PerceptionEncoder
from tests.server.conftest import MODEL_ID, of, png

SAME = 1e-6
Serve = Callable[..., TestClient]


def test_first(serve: Serve, encoder: PerceptionEncoder, photo: Image.Image) -> None:
    client = serve()
    answer = client.post("/perception_encoder/embed_image", json={"image": of(png(photo))})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["embeddings"], encoder.embed_image(photo), atol=SAME)
