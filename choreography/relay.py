"""The relay: takes a service's committed events from its outbox to the broker, in order, confirmed.

An event is marked as published only after the broker confirmed it, so a relay that dies in between publishes it
again (the inboxes absorb that) and never loses it. While the broker is down, blocks publishers or refuses, the outbox
waits: there are no attempts to use up. After any such trouble the topology is declared again, so that an event whose
queue was lost goes out by itself. Several relays per service may run on PostgreSQL, each taking rows no other holds.
"""

import select
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg2
import structlog
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
    transaction,
)

from choreography import alive, topology, world
from choreography.conf import conf
from choreography.errors import Transient
from choreography.models import alias_of, table_of
from choreography.outbox import wake_channel
from choreography.publishing import BrokerPublisher, Outgoing, Publisher, broker_errors, connect
from choreography.registry import reactions
from choreography.retries import classify

log = structlog.get_logger(__name__)

#: Longest pause while there is nothing to do, seconds. Within it the relay shows that it lives.
_IDLE = 1.0
#: Pause between looks at the outbox where the database can't notify, seconds.
_POLL = 0.05
#: Pauses while the broker or the database is down, seconds: doubled from the first to the last.
_FIRST_BACKOFF, _LAST_BACKOFF = 0.25, 5.0


def move(service: str, publisher: Publisher, limit: int | None = None) -> int:
    """Publish the oldest waiting events and mark them as published, ``limit`` at most.

    Returns:
        How many were published.

    Raises:
        Transient: the broker did not confirm; the rows wait, and some events may go out twice.
    """
    alias = alias_of(service)
    outbox = table_of(service, "Outbox").objects.using(alias)
    with _rows_locked(alias):
        waiting = outbox.filter(published_at=None).order_by("position")
        if connections[alias].features.has_select_for_update_skip_locked:
            waiting = waiting.select_for_update(skip_locked=True)
        rows = list(
            waiting.values("position", "event_id", "event_type", "subject", "body")[: limit or conf().relay_batch]
        )
        publisher.publish([_outgoing(row) for row in rows])
        outbox.filter(position__in=[row["position"] for row in rows]).update(published_at=world.now())
    for row in rows:
        log.info(
            "event published", event_id=str(row["event_id"]), event_type=row["event_type"], flow=str(row["subject"])
        )
    return len(rows)


def run(service: str, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Move events until ``stop`` is set, through any outage of the broker or the database.

    Args:
        ready: called once, when the topology is declared and the first look at the outbox is done.
    """
    publisher = BrokerPublisher()
    waker = Waker(alias_of(service))
    backoff, declared, announced = _FIRST_BACKOFF, False, False
    try:
        while not stop.is_set():
            alive.sign(f"relay-{service}")
            try:
                close_old_connections()
                if not declared:
                    declare_topology()
                    declared = True
                waker.listen(service)
                moved = move(service, publisher)
                publisher.keep_alive()
                if backoff != _FIRST_BACKOFF:
                    log.info("relay goes on", service=service)
                    backoff = _FIRST_BACKOFF
                if not announced:
                    announced = True
                    ready()
                if moved == 0:
                    waker.wait(stop)
            except (Transient, DatabaseError, InterfaceError) as error:
                if not issubclass(classify(error), Transient):
                    raise
                log.warning(
                    "relay waits", service=service, seconds=backoff, error=type(error).__name__, detail=str(error)
                )
                declared = False
                waker.close()
                stop.wait(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)
    finally:
        waker.close()
        publisher.close()
        connections.close_all()


def declare_topology(*services: str) -> None:
    """Declare what these services need on the broker, before anything is published; by default all this process knows.

    The relay declares what hears its events too: a queue that was lost is there again before they go out.

    Raises:
        Transient: the broker can't be reached or refuses.
    """
    with connect() as connection:
        try:
            topology.declare(connection, services or None)
        except broker_errors(connection) as error:
            raise Transient(f"the topology can't be declared: {error}") from error


class Waker:
    """Waits until there may be something in the outbox: LISTEN on PostgreSQL, a short pause elsewhere."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._listener: Any = None

    def listen(self, service: str) -> None:
        """Begin to listen, before the outbox is looked at, so that no notification falls between."""
        database = connections[self._alias]
        if self._listener is None and database.vendor == "postgresql":
            parameters = {
                key: value for key, value in database.get_connection_params().items() if key != "cursor_factory"
            }
            try:
                self._listener = psycopg2.connect(**parameters)
                self._listener.autocommit = True
                with self._listener.cursor() as cursor:
                    cursor.execute(f'LISTEN "{wake_channel(service)}"')
            except psycopg2.Error as error:
                raise OperationalError(str(error)) from error

    def wait(self, stop: threading.Event) -> None:
        """Return at a notification, or when it is time to look anyway."""
        if self._listener is None:
            stop.wait(_POLL)
            return
        if select.select([self._listener], [], [], _IDLE)[0]:
            try:
                self._listener.poll()
            except psycopg2.Error as error:
                raise OperationalError(str(error)) from error
            self._listener.notifies.clear()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


def _outgoing(row: dict[str, Any]) -> Outgoing:
    return Outgoing(
        body=row["body"].encode(),
        exchange=topology.exchange_name(row["event_type"]),
        message_id=str(row["event_id"]),
        # Whom we don't know may hear it or not. Whom we know must: else a lost queue or binding would lose the event.
        mandatory=any(row["event_type"] in reaction.event_types for reaction in reactions()),
    )


def _rows_locked(alias: str) -> AbstractContextManager[Any]:
    """A transaction where rows can be locked. SQLite would lock the whole file while the broker answers."""
    if connections[alias].features.has_select_for_update_skip_locked:
        return transaction.atomic(using=alias)
    return nullcontext()
