"""Circuit breakers: stop taking messages while something is down, probe it, and start again.

A delivery that met an outage is only a suspicion. The breaker probes for itself: if the probe succeeds, the outage was
short and nothing opens. If it fails, the circuit is open, and the service takes no more messages until a probe
succeeds. Knows neither Celery nor the broker; the worker does the pausing (``consumer.EventConsumer``).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, connections

from choreography.core import clock, metrics
from choreography.core.classification import classify
from choreography.core.errors import Outage, describe
from choreography.events.registry import reactions
from choreography.events.reports import PauseReport
from choreography.inbox.deliveries import DATABASE
from choreography.outbox.reports import report_pause
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Pauses between probes, seconds: doubled from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 5.0


@dataclass(frozen=True)
class Circuit:
    """Something a service can't work without."""

    service: str
    dependency: str
    """``DATABASE``, or the name of an external system its reactions call."""
    id: UUID = field(default_factory=lambda: clock.new_id(), compare=False)
    """Of this one opening."""

    @property
    def name(self) -> str:
        """``payments.wait_for_payment_gateway``."""
        return f"{self.service}.wait_for_{self.dependency.replace(' ', '_')}"


class CircuitListener(Protocol):
    """Whoever pauses. Called on threads of the circuit breakers."""

    def opened(self, circuit: Circuit, error: str) -> None:
        """Take nothing more for the service. ``error`` says why, without personal data."""

    def still_open(self, circuit: Circuit, error: str) -> None:
        """Another probe failed."""

    def closed(self, circuit: Circuit, seconds: float) -> None:
        """A probe succeeded, after so long."""


class CircuitBreakers:
    """Every circuit of a worker process."""

    def __init__(self, listener: CircuitListener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._watched: set[Circuit] = set()
        self._open: set[Circuit] = set()
        self._stopping = threading.Event()

    @property
    def open(self) -> frozenset[Circuit]:
        """What is known to be down at this moment."""
        with self._lock:
            return frozenset(self._open)

    def suspect(self, service: str, dependency: str) -> None:
        """Probe it, in a thread of its own; do nothing if that is being done already."""
        circuit = Circuit(service, dependency)
        with self._lock:
            if circuit in self._watched or self._stopping.is_set():
                return
            self._watched.add(circuit)
        threading.Thread(target=self._watch, args=(circuit,), name=circuit.name, daemon=True).start()

    def stop(self) -> None:
        """Probe no more. What is open stays open until the process ends."""
        self._stopping.set()

    def _watch(self, circuit: Circuit) -> None:
        """A circuit's whole life: one probe, and if that fails, more of them until one succeeds."""
        probe = _probe_of(circuit)
        try:
            failure = _failure_of(circuit, probe)
            if failure is None:
                return
            opened_at, since, pause = time.monotonic(), clock.now(), _FIRST_PAUSE
            self._set_open(circuit, True)
            log.warning("circuit opened", service=circuit.service, dependency=circuit.dependency, error=failure)
            self._listener.opened(circuit, failure)  # first: nothing more is to be taken
            _report(circuit, since, failure)
            while not self._stopping.wait(pause):
                pause = min(pause * 2, _LAST_PAUSE)
                failure = _failure_of(circuit, probe)
                if failure is None:
                    break
                self._listener.still_open(circuit, failure)
                _report(circuit, since, failure)
            else:
                return
            seconds = time.monotonic() - opened_at
            self._set_open(circuit, False)
            log.warning(
                "circuit closed", service=circuit.service, dependency=circuit.dependency, seconds=round(seconds, 1)
            )
            self._listener.closed(circuit, seconds)
            _report(circuit, since)
        finally:
            with self._lock:
                self._watched.discard(circuit)

    def _set_open(self, circuit: Circuit, is_open: bool) -> None:
        with self._lock:
            (self._open.add if is_open else self._open.discard)(circuit)
        metrics.circuit_changed(circuit.service, circuit.dependency, is_open)


def _report(circuit: Circuit, since: datetime, error: str = "") -> None:
    """Tell who follows flows that the service pauses, and why; without an error, that it goes on."""
    if circuit.dependency == DATABASE:
        return  # there is nowhere to write it
    at = clock.now()
    pause = PauseReport(dependency=circuit.dependency, error=error, since=since, at=at, is_over=not error)
    try:
        report_pause(circuit.service, pause)
    except (DatabaseError, InterfaceError) as down:
        log.warning("pause not reported", service=circuit.service, error=type(down).__name__)
    finally:
        connections.close_all()  # those of this thread, which now waits for seconds


def _failure_of(circuit: Circuit, probe: Callable[[], None]) -> str | None:
    """Why it is down; ``None`` if it answers, or fails in a way that waiting does not mend."""
    try:
        probe()
    except Exception as error:  # a probe that is broken itself must not stop a service for ever
        if issubclass(classify(error), Outage):
            return describe(error)
        log.warning("probe failed", service=circuit.service, dependency=circuit.dependency, error=describe(error))
    return None


def _probe_of(circuit: Circuit) -> Callable[[], None]:
    if circuit.dependency == DATABASE:
        return partial(_probe_database, circuit.service)
    systems = (reaction.external_system for reaction in reactions(circuit.service))
    return {system.name: system.probe for system in systems if system}[circuit.dependency]


def _probe_database(service: str) -> None:
    """Write nothing, on a connection of its own: a database that can only be read is of no use."""
    tables = ServiceTables(service)
    inbox = tables.inbox.model._meta.db_table
    database = connections[tables.alias].copy()
    if database.vendor == "postgresql":
        database.settings_dict["OPTIONS"]["connect_timeout"] = 5
    try:
        with database.cursor() as cursor:
            cursor.execute(f"DELETE FROM {database.ops.quote_name(inbox)} WHERE 1 = 0")  # noqa: S608 (a table of ours)
    finally:
        database.close()
