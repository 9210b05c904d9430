"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one service; each has its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "kinema_requests", "Requests answered", ["method", "path", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "kinema_request_seconds",
            "From a request's first byte to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.model_seconds = Histogram(
            "kinema_model_seconds", "In the model's thread", ["kind"], buckets=_SECONDS, registry=self.registry
        )
        self.queue_depth = Gauge(
            "kinema_queue_depth", "Clips that are received, wait or are worked on", registry=self.registry
        )
        self.queue_limit = Gauge("kinema_queue_limit", "At most so many", registry=self.registry)
        self.live_sessions = Gauge("kinema_live_sessions", "Cameras that are watched now", registry=self.registry)
        self.frames = Counter("kinema_live_frames", "Pictures of cameras that were looked at", registry=self.registry)
        self.dropped = Counter(
            "kinema_live_frames_dropped", "Pictures in whose place a newer one came", registry=self.registry
        )
        self.malformed = Counter(
            "kinema_live_frames_malformed", "Messages that were no pictures", registry=self.registry
        )

    def text(self) -> bytes:
        """All of them, in the text format that Prometheus reads."""
        return generate_latest(self.registry)
