"""The relay: takes a service's committed events from its outbox to the broker, in order, confirmed.

An event is marked as published only after the broker confirmed it, so a relay that dies in between publishes it
again (the inboxes absorb that) and never loses it. While the broker is down, blocks publishers or refuses, the outbox
waits: there are no attempts to use up. After any such trouble the topology is declared again, so that an event whose
queue was lost goes out by itself. Several relays per service may run on PostgreSQL, each taking rows no other holds.
"""

import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from uuid import UUID

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

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, Outgoing, Publisher, broker_errors, connect
from choreography.core import clock, liveness
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import Transient
from choreography.events.registry import reactions
from choreography.outbox.announcing import wake_channel
from choreography.storage.models import alias_of, table_of

log = structlog.get_logger(__name__)

#: Seconds between two looks around: a sign of life, the connections, the broker's heartbeat. Not before every batch,
#: which they would delay. Also the longest pause while there is nothing to do.
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
    with _rows_locked(alias_of(service)):
        events = _take(service, limit or conf().relay_batch)
        if events:
            publisher.publish(_outgoing(events))
            _mark(service, events)
    for event in events:
        log.info("event published", event_id=event.id, event_type=event.type, flow=event.subject)
    return len(events)


def run(service: str, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Move events until ``stop`` is set, through any outage of the broker or the database.

    Args:
        ready: called once, when the topology is declared and the first look at the outbox is done.
    """
    publisher = BrokerPublisher()
    waker = Waker(alias_of(service))
    backoff, declared, announced = _FIRST_BACKOFF, False, False
    look_around = time.monotonic()
    try:
        while not stop.is_set():
            try:
                if time.monotonic() >= look_around:
                    liveness.sign(f"relay-{service}")
                    close_old_connections()
                    publisher.keep_alive()
                    look_around = time.monotonic() + _IDLE
                if not declared:
                    declare_topology()
                    declared = True
                waker.listen(service)
                moved = move(service, publisher)
                if backoff != _FIRST_BACKOFF:
                    log.info("relay goes on", service=service)
                    backoff = _FIRST_BACKOFF
                if not announced:
                    announced = True
                    ready()
                if moved < conf().relay_batch:
                    waker.wait(stop, look_around - time.monotonic())
            except (Transient, DatabaseError, InterfaceError) as error:
                if not issubclass(classify(error), Transient):
                    raise
                log.warning(
                    "relay waits", service=service, seconds=backoff, error=type(error).__name__, detail=str(error)
                )
                declared, look_around = False, time.monotonic()
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

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Return at a notification, or when it is time to look anyway: after ``seconds`` at the latest."""
        if self._listener is None:
            stop.wait(_POLL)
            return
        if select.select([self._listener], [], [], max(seconds, 0.0))[0]:
            try:
                self._listener.poll()
            except psycopg2.Error as error:
                raise OperationalError(str(error)) from error
            self._listener.notifies.clear()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


class _Waiting(NamedTuple):
    """What the relay reads of an outbox row. Plain SQL: for a batch of one the ORM costs more than all the rest."""

    position: int
    id: str
    type: str
    subject: str
    body: str


def _take(service: str, limit: int) -> list[_Waiting]:
    """The oldest waiting events, held against other relays where the database can."""
    database = connections[alias_of(service)]
    skip_locked = "FOR UPDATE SKIP LOCKED" if database.features.has_select_for_update_skip_locked else ""
    with database.cursor() as cursor:
        cursor.execute(
            f"SELECT position, CAST(event_id AS text), event_type, CAST(subject AS text), body FROM {_table(service)}"  # noqa: S608
            f" WHERE published_at IS NULL ORDER BY position LIMIT %s {skip_locked}",
            [limit],
        )
        # The hyphens of an id are PostgreSQL's; SQLite has none.
        return [
            _Waiting(position, str(UUID(event_id)), event_type, str(UUID(subject)), body)
            for position, event_id, event_type, subject, body in cursor.fetchall()
        ]


def _mark(service: str, events: Sequence[_Waiting]) -> None:
    """Note that the broker has them."""
    database = connections[alias_of(service)]
    positions = ", ".join(["%s"] * len(events))
    with database.cursor() as cursor:
        cursor.execute(
            f"UPDATE {_table(service)} SET published_at = %s WHERE position IN ({positions})",  # noqa: S608
            [database.ops.adapt_datetimefield_value(clock.now()), *(event.position for event in events)],
        )


def _table(service: str) -> str:
    return connections[alias_of(service)].ops.quote_name(table_of(service, "Outbox")._meta.db_table)


def _outgoing(events: Sequence[_Waiting]) -> list[Outgoing]:
    # Whom we don't know may hear it or not. Whom we know must: else a lost queue or binding would lose the event.
    heard_here = {event_type for reaction in reactions() for event_type in reaction.event_types}
    return [
        Outgoing(
            body=event.body.encode(),
            exchange=topology.exchange_name(event.type),
            message_id=event.id,
            mandatory=event.type in heard_here,
        )
        for event in events
    ]


def _rows_locked(alias: str) -> AbstractContextManager[Any]:
    """A transaction where rows can be locked. SQLite would lock the whole file while the broker answers."""
    if connections[alias].features.has_select_for_update_skip_locked:
        return transaction.atomic(using=alias)
    return nullcontext()
