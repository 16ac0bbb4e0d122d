"""Hold back while something is down: a circuit opens, probes and closes.

A delivery that met an outage only raises a suspicion. The circuit asks for itself: if what the delivery could not
reach answers, one delivery was unlucky and nothing opens. If it does not, the service takes no more messages until it
answers again. Knows neither Celery nor the broker; the worker does the holding back (``consumer.EventConsumer``).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog
from django.db import connections

from choreography.core import clock
from choreography.core.classification import classify
from choreography.core.errors import Outage, describe
from choreography.events.registry import reactions
from choreography.inbox.deliveries import DATABASE
from choreography.storage.models import alias_of, table_of

log = structlog.get_logger(__name__)

#: Pauses between probes, seconds: doubled from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 5.0


@dataclass(frozen=True)
class Circuit:
    """One thing a service can't do without, that is down."""

    service: str
    what: str
    """``DATABASE``, or the name of a host its reactions ask."""
    id: UUID = field(default_factory=lambda: clock.new_id(), compare=False)
    """Of this one opening."""

    @property
    def name(self) -> str:
        """``payments.wait_for_payment_gateway``."""
        return f"{self.service}.wait_for_{self.what.replace(' ', '_')}"


class Holder(Protocol):
    """Who holds back. Called on threads of the circuits."""

    def opened(self, circuit: Circuit, error: str) -> None:
        """Take nothing more for the service. ``error`` says why, without personal data."""

    def still_open(self, circuit: Circuit, error: str) -> None:
        """Another probe failed."""

    def closed(self, circuit: Circuit, seconds: float) -> None:
        """It answers again, after so long."""


class Circuits:
    """Every circuit of a worker process."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._lock = threading.Lock()
        self._watched: set[Circuit] = set()
        self._open: set[Circuit] = set()
        self._stopping = threading.Event()

    @property
    def open(self) -> frozenset[Circuit]:
        """What is known to be down at this moment."""
        with self._lock:
            return frozenset(self._open)

    def suspect(self, service: str, what: str) -> None:
        """Have a look whether it is down, in a thread of its own; nothing more if that is being done already."""
        circuit = Circuit(service, what)
        with self._lock:
            if circuit in self._watched or self._stopping.is_set():
                return
            self._watched.add(circuit)
        threading.Thread(target=self._watch, args=(circuit,), name=circuit.name, daemon=True).start()

    def stop(self) -> None:
        """Probe no more. What is open stays so until the process ends."""
        self._stopping.set()

    def _watch(self, circuit: Circuit) -> None:
        """A circuit's whole life: a look, and if that fails, probes until one succeeds."""
        probe = _probe_of(circuit)
        try:
            down = _failure_of(circuit, probe)
            if down is None:
                return
            began, pause = time.monotonic(), _FIRST_PAUSE
            self._set_open(circuit, True)
            log.warning("circuit opened", service=circuit.service, host=circuit.what, error=down)
            self._holder.opened(circuit, down)
            while not self._stopping.wait(pause):
                pause = min(pause * 2, _LAST_PAUSE)
                down = _failure_of(circuit, probe)
                if down is None:
                    break
                self._holder.still_open(circuit, down)
            else:
                return
            seconds = time.monotonic() - began
            self._set_open(circuit, False)
            log.warning("circuit closed", service=circuit.service, host=circuit.what, seconds=round(seconds, 1))
            self._holder.closed(circuit, seconds)
        finally:
            with self._lock:
                self._watched.discard(circuit)

    def _set_open(self, circuit: Circuit, is_open: bool) -> None:
        with self._lock:
            (self._open.add if is_open else self._open.discard)(circuit)


def _failure_of(circuit: Circuit, probe: Callable[[], None]) -> str | None:
    """Why it is down; ``None`` if it answers, or fails in a way that waiting does not mend."""
    try:
        probe()
    except Exception as error:  # a probe that is broken itself must not stop a service for ever
        if issubclass(classify(error), Outage):
            return describe(error)
        log.warning("probe failed", service=circuit.service, host=circuit.what, error=describe(error))
    return None


def _probe_of(circuit: Circuit) -> Callable[[], None]:
    if circuit.what == DATABASE:
        return partial(_ask_database, circuit.service)
    hosts = {reaction.host.name: reaction.host for reaction in reactions(circuit.service) if reaction.host}
    return hosts[circuit.what].probe


def _ask_database(service: str) -> None:
    """Write nothing, on a connection of its own: one that may only read is no use."""
    inbox = table_of(service, "Inbox")._meta.db_table
    database = connections[alias_of(service)].copy()
    if database.vendor == "postgresql":
        database.settings_dict["OPTIONS"]["connect_timeout"] = 5
    try:
        with database.cursor() as cursor:
            cursor.execute(f"DELETE FROM {database.ops.quote_name(inbox)} WHERE 1 = 0")  # noqa: S608 (a table of ours)
    finally:
        database.close()
