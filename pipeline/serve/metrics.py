"""The HTTP server's figures for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

PREFIX = "mask"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OTHER = "other"


class ServeMetrics:
    """Counts requests, photos and faces.

    paths: what a request's path is counted under: itself, or the one that ends in "*" and covers it, or OTHER, so that
    nobody can fill the memory with made-up paths.
    """

    def __init__(self, paths: Sequence[str], class_names: Iterable[str], under_way: Callable[[], float]) -> None:
        self._paths = paths
        self.registry = CollectorRegistry()
        ours: dict[str, Any] = {"registry": self.registry, "namespace": PREFIX}
        self._requests = Counter("requests", "HTTP requests answered", ("path", "status"), **ours)
        self._seconds = Histogram("detect_seconds", "Time of a photo's decoding and detection", buckets=BUCKETS, **ours)
        self._faces = Counter("faces", "Faces reported", ("label",), **ours)
        self._bytes = Counter("upload_bytes", "Bytes of the photos gone through", **ours)
        Gauge("requests_under_way", "Photos being sent, waiting or gone through", **ours).set_function(under_way)
        ProcessCollector(registry=self.registry)
        for name in class_names:
            self._faces.labels(name)

    def count_request(self, path: str, status: int) -> None:
        """Counts a request."""
        covering = (each for each in self._paths if each.endswith("*") and path.startswith(each[:-1]))
        self._requests.labels(path if path in self._paths else next(covering, OTHER), str(status)).inc()

    def count_photo(self, size: int, seconds: float, labels: Iterable[str]) -> None:
        """Counts a photo of `size` bytes gone through, and its faces. May be called from any thread."""
        self._bytes.inc(size)
        self._seconds.observe(seconds)
        for label in labels:
            self._faces.labels(label).inc()

    def render(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self.registry)
