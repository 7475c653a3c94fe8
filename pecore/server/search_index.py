"""The index that `/v1/search` looks into: a small protocol, and the one place that knows which index it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pecore.index import Index, read_index, top_k


class SearchIndex(Protocol):
    """Embeddings of images that can be searched from any thread. `space` is the `Bundle.space` they were made with."""

    @property
    def space(self) -> Mapping[str, Any]: ...

    def search(self, embedding: np.ndarray, top: int) -> list[tuple[str, float]]:
        """The `top` nearest of an embedding `[dim]`: paths, as they were indexed, and cosines, the nearest first."""
        ...


class _Index:
    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def space(self) -> Mapping[str, Any]:
        return self._index.about["space"]

    def search(self, embedding: np.ndarray, top: int) -> list[tuple[str, float]]:
        rows, cosines = top_k(embedding[None], self._index.embeddings, top)
        return [(self._index.paths[row], float(cosine)) for row, cosine in zip(rows[0], cosines[0])]


def open_search_index(path: Path) -> SearchIndex:
    """Open what `pecore embed` wrote.

    Raises:
        InputError: it is missing, damaged or of another make.
    """
    return _Index(read_index(path))
