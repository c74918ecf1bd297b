"""The HTTP server's metrics for Prometheus, in a separate registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

PREFIX = "mask"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OTHER = "other"


class ServeMetrics:
    """Counts requests, photos and faces."""

    def __init__(self, paths: Sequence[str], class_names: Iterable[str], in_flight: Callable[[], float]) -> None:
        """Make the metrics, all 0.

        Args:
            paths: paths that are counted apart; one that ends in "*" covers all that begin so. Other paths are counted
                as OTHER, so that invented paths cannot fill the memory.
            class_names: the classes of faces.
            in_flight: returns the number of requests in flight.
        """
        self._paths = paths
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry, "namespace": PREFIX}
        self._requests = Counter("requests", "HTTP requests answered", ("path", "status"), **options)
        self._seconds = Histogram("detect_seconds", "Time to decode a photo and detect", buckets=BUCKETS, **options)
        self._faces = Counter("faces", "Faces reported", ("label",), **options)
        self._bytes = Counter("upload_bytes", "Bytes of the photos processed", **options)
        Gauge("requests_in_flight", "Photos being sent, waiting or processed", **options).set_function(in_flight)
        ProcessCollector(registry=self.registry)
        for name in class_names:
            self._faces.labels(name)

    def count_request(self, path: str, status: int) -> None:
        """Count a request."""
        covering = (each for each in self._paths if each.endswith("*") and path.startswith(each[:-1]))
        self._requests.labels(path if path in self._paths else next(covering, OTHER), str(status)).inc()

    def count_photo(self, size: int, seconds: float, labels: Iterable[str]) -> None:
        """Count a processed photo of `size` bytes and its faces; any thread may call this."""
        self._bytes.inc(size)
        self._seconds.observe(seconds)
        for label in labels:
            self._faces.labels(label).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
