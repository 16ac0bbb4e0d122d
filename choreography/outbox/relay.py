"""The relay: publishes a service's committed events from its outbox to the broker, in order, confirmed.

An event is marked as published only after the broker has confirmed it, so a relay that dies in between publishes it
again (the inboxes absorb that) and never loses it. While the broker is down, blocks publishers or refuses, the outbox
waits: there are no attempts to use up. An event that the broker will never take, such as one that is too large, is set
aside: it stays in the outbox with the reason, and does not delay the others (``release_refused``). After any other
trouble the topology is declared again, so that an event whose queue was lost goes out by itself. Several relays per
service may run on PostgreSQL, each taking rows that no other has locked.
"""

import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
)

from choreography.broker import topology
from choreography.broker.publisher import BrokerPublisher, Publisher, broker_errors, connect, reach
from choreography.core import clock, liveness, metrics
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import PublishRefused, Transient
from choreography.outbox.announcing import notification_channel
from choreography.outbox.packing import Row, pack
from choreography.outbox.reports import publish_reports, publish_status
from choreography.storage.bulk import locking_for_repeatable_work, rows_locked
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Seconds between two rounds of upkeep: a sign of life, the connections, the broker's heartbeat. Not done before every
#: batch, which it would delay. Also the longest pause while there is nothing to do.
_UPKEEP = 1.0
#: Pause between looks at the outbox where the database can't notify, seconds.
_POLL = 0.05
#: Seconds between two looks at the reports: often enough for people, and seldom beside the events.
_REPORT_EVERY = 0.25
#: Seconds between two reports on how the service is doing.
_STATUS_EVERY = 5.0
#: Characters kept of why the broker refuses an event.
_LONGEST_REASON = 500
#: Pauses while the broker or the database is down, seconds: doubled from the first to the last.
_FIRST_BACKOFF, _LAST_BACKOFF = 0.25, 5.0


def publish_waiting(service: str, publisher: Publisher, limit: int | None = None) -> int:
    """Publish the oldest waiting events and mark them as published, ``limit`` at most.

    Returns:
        How many were published or set aside.

    Raises:
        Transient: the broker did not confirm; the rows wait, and some events may be published twice.
    """
    tables = ServiceTables(service)
    refused: Mapping[int, str] = {}
    with rows_locked(tables.alias):
        events = _take(tables, limit or conf().relay_batch)
        if events:
            refused = _publish(events, publisher)
            _mark_published(tables, [event for index, event in enumerate(events) if index not in refused])
            _set_aside(tables, {events[index]: reason for index, reason in refused.items()})
    for index, event in enumerate(events):
        about = {"event_id": event.id, "event_type": event.type, "flow": event.subject}
        if index in refused:
            log.error("event refused", **about, reason=refused[index])
        else:
            log.info("event published", **about)
            metrics.event_published(service, event.type, time.time() - _announced_at(event.id))
    return len(events)


def release_refused(service: str) -> int:
    """Have the relay publish again what the broker has refused. Returns how many events."""
    refused = ServiceTables(service).outbox.exclude(refusal="")
    return int(refused.filter(published_at=None).update(refusal=""))


def run(service: str, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Publish events until ``stop`` is set, through any outage of the broker or the database.

    Args:
        ready: called once, when the topology is declared and the first look at the outbox is done.
    """
    publisher = BrokerPublisher()
    listener = OutboxListener(service)
    backoff, is_declared, was_ready = _FIRST_BACKOFF, False, False
    next_upkeep = next_reports = next_status = time.monotonic()
    try:
        while not stop.is_set():
            try:
                if time.monotonic() >= next_upkeep:
                    liveness.show(f"relay-{service}")
                    close_old_connections()
                    publisher.keep_alive()
                    next_upkeep = time.monotonic() + _UPKEEP
                if not is_declared:
                    declare_topology()
                    is_declared = True
                listener.listen()
                published = publish_waiting(service, publisher)
                if backoff != _FIRST_BACKOFF:
                    log.info("relay continues", service=service)
                    backoff = _FIRST_BACKOFF
                if not was_ready:
                    was_ready = True
                    ready()
                if time.monotonic() >= next_reports:
                    publish_reports(service, publisher)
                    next_reports = time.monotonic() + _REPORT_EVERY
                if time.monotonic() >= next_status:
                    publish_status(service, publisher)
                    next_status = time.monotonic() + _STATUS_EVERY
                if published < conf().relay_batch:
                    listener.wait(stop, next_upkeep - time.monotonic())
            except (Transient, DatabaseError, InterfaceError) as error:
                if not issubclass(classify(error), Transient):
                    raise
                log.warning(
                    "relay waits", service=service, seconds=backoff, error=type(error).__name__, detail=str(error)
                )
                is_declared, next_upkeep = False, time.monotonic()
                listener.close()
                # After a failover a session may be one that can't write. Django would keep it, for it answers a SELECT.
                connections[ServiceTables(service).alias].close()
                stop.wait(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)
    finally:
        listener.close()
        publisher.close()
        connections.close_all()


def declare_topology(*services: str) -> None:
    """Declare what these services need on the broker, before anything is published; by default all this process knows.

    The relay also declares the queues of those that react to its events: a queue that was lost exists again before
    they are published.

    Raises:
        Transient: the broker can't be reached or refuses.
    """
    with connect() as connection:
        try:
            reach(connection)
            topology.declare(connection, services or None)
        except broker_errors(connection) as error:
            raise Transient(f"the topology can't be declared: {error}") from error


class OutboxListener:
    """Waits until there may be something in the outbox: LISTEN on PostgreSQL, a short pause elsewhere.

    Also a short pause behind a connection pool such as PgBouncer, which may give the session that listens to another
    client. It can be told by the number of the server's process: a pool gives its clients one of its own.
    https://www.pgbouncer.org/features.html
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._connection: Any = None
        self._is_pooled = False

    def listen(self) -> None:
        """Begin to listen, before the outbox is looked at, so that no notification falls between."""
        database = connections[ServiceTables(self._service).alias]
        if self._connection is not None or self._is_pooled or database.vendor != "postgresql":
            return
        import psycopg2  # here, as it is not installed where only SQLite is used

        parameters = {key: value for key, value in database.get_connection_params().items() if key != "cursor_factory"}
        try:
            self._connection = psycopg2.connect(**parameters)
            self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute(f'LISTEN "{notification_channel(self._service)}"')
                cursor.execute("SELECT pg_backend_pid()")
                [pid] = cursor.fetchone()
        except psycopg2.Error as error:
            raise OperationalError(str(error)) from error
        if pid != self._connection.info.backend_pid:
            self.close()
            self._is_pooled = True
            log.warning("outbox polled: a connection pool passes no notifications on", service=self._service)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Return at a notification, or when it is time to look anyway: after ``seconds`` at the latest."""
        if self._connection is None:
            stop.wait(_POLL)
            return
        import psycopg2

        if select.select([self._connection], [], [], max(seconds, 0.0))[0]:
            try:
                self._connection.poll()
            except psycopg2.Error as error:
                raise OperationalError(str(error)) from error
            self._connection.notifies.clear()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _announced_at(event_id: str) -> float:
    """Seconds since the epoch, as a UUIDv7 has them in its first 48 bits (RFC 9562, section 5.7)."""
    return int(event_id.replace("-", "")[:12], 16) / 1000


def _take(tables: ServiceTables, limit: int) -> list[Row]:
    """The oldest waiting events, locked against other relays where the database can."""
    select = (
        f"SELECT position, CAST(event_id AS text), event_type, subject, body FROM {_table(tables)}"  # noqa: S608
        " WHERE published_at IS NULL AND refusal = '' ORDER BY position LIMIT %s"
    )
    with connections[tables.alias].cursor() as cursor:
        cursor.execute(locking_for_repeatable_work(select, tables.alias), [limit])
        # The hyphens of an id are PostgreSQL's; SQLite has none.
        return [
            Row(position, str(UUID(event_id)), event_type, subject, body)
            for position, event_id, event_type, subject, body in cursor.fetchall()
        ]


def _publish(events: Sequence[Row], publisher: Publisher) -> dict[int, str]:
    """Publish events. Returns those that the broker will never take, by their index, with the reason."""
    packed = pack(events)
    try:
        publisher.publish([each.message for each in packed])
    except PublishRefused as refusal:
        refused: dict[int, str] = {}
        for position, reason in refusal.reasons.items():
            first, *others = packed[position].indexes
            if not others:
                refused[first] = reason
                continue
            for index in (first, *others):  # one of them may be what the broker refuses
                if why := _publish([events[index]], publisher):
                    refused[index] = why[0]
        return refused
    return {}


def _mark_published(tables: ServiceTables, events: Sequence[Row]) -> None:
    if not events:
        return
    database = connections[tables.alias]
    positions = ", ".join(["%s"] * len(events))
    with database.cursor() as cursor:
        cursor.execute(
            f"UPDATE {_table(tables)} SET published_at = %s WHERE position IN ({positions})",  # noqa: S608
            [database.ops.adapt_datetimefield_value(clock.now()), *(event.position for event in events)],
        )


def _set_aside(tables: ServiceTables, refused: Mapping[Row, str]) -> None:
    for event, reason in refused.items():
        tables.outbox.filter(position=event.position).update(refusal=reason[:_LONGEST_REASON])


def _table(tables: ServiceTables) -> str:
    return connections[tables.alias].ops.quote_name(tables.outbox.model._meta.db_table)
