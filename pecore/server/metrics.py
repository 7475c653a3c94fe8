"""What `/metrics` tells Prometheus, counted in a registry of the server's own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pecore.server.work import Workers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Requests by endpoint and status, how long they took, embeddings by kind, and the queue."""

    def __init__(self, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("pecore_requests", "Answers", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "pecore_request_seconds", "From the request's head to the answer's end", ["path"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._embeddings = Histogram(
            "pecore_embedding_seconds", "Of one image or text, its wait for the model included", ["kind"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        queue = Gauge("pecore_queue_items", "Images and texts that wait or run", registry=self._registry)
        queue.set_function(lambda: workers.items)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer. `path` is an endpoint's, or `other`: what clients make up is no label."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    @contextmanager
    def embedding(self, kind: str) -> Iterator[None]:
        """Time one embedding that comes about."""
        started = time.perf_counter()
        yield
        self._embeddings.labels(kind).observe(time.perf_counter() - started)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
