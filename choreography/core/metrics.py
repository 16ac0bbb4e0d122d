"""Counters and histograms for Prometheus: each process writes files in the data folder, and one page reads them all.

Off until a process calls ``start``, and where prometheus_client is not installed. Labels are names of services, event
types, reactions and external systems, so that there are some hundreds of series however many orders there are.

https://prometheus.github.io/client_python/multiprocess/
"""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

from choreography.core.conf import conf

#: Bounds of the histograms, in seconds: from a fast reaction to an hour of waiting.
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600)
#: What the client writes the files by.
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class _Metrics:
    """Everything that is measured."""

    def __init__(self, client: Any) -> None:
        self.published = client.Counter(
            "choreography_events_published_total", "Events that the broker has confirmed.", ["service", "event_type"]
        )
        self.outbox = client.Histogram(
            "choreography_outbox_seconds",
            "From when an event was announced until the broker confirmed it.",
            ["service"],
            buckets=_BUCKETS,
        )
        self.deliveries = client.Counter(
            "choreography_deliveries_total", "Outcomes of deliveries.", ["service", "reaction", "outcome"]
        )
        self.queue = client.Histogram(
            "choreography_queue_seconds",
            "From when an event was published until its first handling began.",
            ["service", "reaction"],
            buckets=_BUCKETS,
        )
        self.handling = client.Histogram(
            "choreography_handling_seconds",
            "From when handling began until it was about to be committed.",
            ["service", "reaction"],
            buckets=_BUCKETS,
        )
        self.circuit = client.Gauge(
            "choreography_circuit_open",
            "1 while a service's worker pauses because something is down.",
            ["service", "dependency"],
            multiprocess_mode="livemax",
        )
        self.flows = client.Histogram(
            "journal_flow_seconds",
            "From the first event of a flow to the event it ended with.",
            ["end"],
            buckets=_BUCKETS,
        )


_metrics: _Metrics | None = None


@cache
def _series(metric: str, *labels: str) -> Any:
    """The series of a metric with these labels. The client would look for it anew each time."""
    return getattr(_metrics, metric).labels(*labels)


def folder() -> Path:
    """Where the processes of this machine write. Containers may share a data folder, and have the same process ids."""
    return conf().data_dir / "metrics" / socket.gethostname()


def files() -> list[str]:
    """What all processes have written, on every machine that shares the data folder."""
    _forget_dead_gauges()
    return [str(path) for path in sorted(folder().parent.glob("*/*.db"))]


def start() -> None:
    """Measure from now on, if prometheus_client is installed. Does nothing the second time."""
    global _metrics
    if _metrics is not None:
        return
    folder().mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(_VARIABLE, str(folder()))
    try:
        import prometheus_client
        from prometheus_client import values
    except ImportError:
        return
    # The client chose when it was imported, before the folder was known: Celery imports Flower, which imports it.
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    _metrics = _Metrics(prometheus_client)


def forget_dead_processes() -> None:
    """Delete the files of processes that don't run any more: call it before the first one starts.

    Counters begin at nought again, which Prometheus expects of them.
    """
    for path in folder().glob("*.db"):
        path.unlink(missing_ok=True)


def _forget_dead_gauges() -> None:
    """What a process of this machine that was killed said of the present does not count."""
    for path in folder().glob("gauge_live*.db"):
        if not Path(f"/proc/{path.stem.rpartition('_')[2]}").exists():
            path.unlink(missing_ok=True)


def event_published(service: str, event_type: str, seconds: float) -> None:
    """The broker has confirmed an event, so long after it was announced."""
    if _metrics is not None:
        _series("published", service, event_type).inc()
        _series("outbox", service).observe(max(seconds, 0.0))


def delivery_ended(service: str, reaction: str, outcome: str, queue: float | None, handling: float | None) -> None:
    """Something became of a delivery. ``queue`` and ``handling``: seconds, where they are known."""
    if _metrics is not None:
        _series("deliveries", service, reaction, outcome).inc()
        if queue is not None:
            _series("queue", service, reaction).observe(max(queue, 0.0))
        if handling is not None:
            _series("handling", service, reaction).observe(max(handling, 0.0))


def circuit_changed(service: str, dependency: str, is_open: bool) -> None:
    """A service's worker has begun to pause for something, or has ended its pause."""
    if _metrics is not None:
        _series("circuit", service, dependency).set(int(is_open))


def flow_ended(end: str, seconds: float) -> None:
    """A flow has ended, so long after its first event."""
    if _metrics is not None:
        _series("flows", end).observe(max(seconds, 0.0))
