"""The text of ``/metrics``: what workers and relays have counted, and how the services are doing now."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from choreography.core import metrics
from choreography.outbox.reports import status_of

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]


def exposition() -> bytes:
    """Everything, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Processes())
    registry.register(_Services())
    return generate_latest(registry)


class _Processes:
    """What workers and relays have counted."""

    def collect(self) -> Iterator[Any]:
        merged: Any = MultiProcessCollector.merge(metrics.files(), accumulate=True)  # type: ignore[no-untyped-call]
        yield from merged


class _Services:
    """How the services of this process are doing, as their tables say when they are asked; and the journal's flows."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        names = {
            "outbox_waiting": "Events that wait in the outbox.",
            "outbox_oldest_seconds": "Age of the oldest of them.",
            "outbox_refused": "Events that the broker refuses for good.",
            "retries_waiting": "Deliveries on the retry ladder.",
            "dead_letters_parked": "Parked dead letters.",
        }
        gauges = {
            name: GaugeMetricFamily(f"choreography_{name}", text, labels=["service"]) for name, text in names.items()
        }
        for service in settings.SERVICES:
            try:
                for name, value in _state_of(service).items():
                    gauges[name].add_metric([service], value)
            except DatabaseError:
                continue  # its gauges are absent; /health/ready says why
        yield from gauges.values()
        if "journal" in settings.SERVICES:
            yield from _flows()


def _state_of(service: str) -> dict[str, float]:
    status = status_of(service)
    return {
        "outbox_waiting": status.outbox,
        "outbox_oldest_seconds": (status.at - status.oldest).total_seconds() if status.oldest else 0,
        "outbox_refused": status.refused,
        "retries_waiting": status.retries,
        "dead_letters_parked": status.parked,
    }


def _flows() -> Iterator[GaugeMetricFamily]:
    from journal.services import count_flows  # only where the journal is installed

    gauge = GaugeMetricFamily("journal_flows", "Flows that have not ended, or need somebody.", labels=["state"])
    try:
        for state, flows in count_flows().items():
            gauge.add_metric([state], flows)
    except DatabaseError:
        return
    yield gauge
