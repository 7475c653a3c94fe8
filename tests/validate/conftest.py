"""Tiny `.tflite` files with whatever flaw a test wants."""

import pytest

from tests.graph_builder import GraphBuilder


@pytest.fixture
def builder() -> GraphBuilder:
    return GraphBuilder()
