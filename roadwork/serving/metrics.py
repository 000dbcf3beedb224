"""What the service counts, in a registry of its own: two services in one process count apart."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service, as Prometheus reads them."""

    def __init__(self, taken: Callable[[], float]) -> None:
        """Counts from zero; `taken` gives the places that are taken now."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("roadwork_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "roadwork_request_seconds",
            "From a request's headers to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._photos = Counter(
            "roadwork_photos", "Photos by outcome: answered, or why not.", ["outcome"], registry=registry
        )
        self._batches = Histogram("roadwork_batch_photos", "Photos in a batch.", buckets=_BATCHES, registry=registry)
        queue = Gauge("roadwork_queue_photos", "Photos that are uploaded, decoded or answered now.", registry=registry)
        queue.set_function(taken)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; `path`: one of few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_photo(self, outcome: str) -> None:
        """A photo was answered, or refused."""
        self._photos.labels(outcome).inc()

    def count_batch(self, size: int) -> None:
        """So many photos went through the network at once."""
        self._batches.observe(size)

    def render(self) -> bytes:
        """All of it, in Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text
