"""Announce a fact: append the event to the service's own outbox, in the transaction that makes it true.

What one transaction announces is collected and written with one statement before it commits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import connections, transaction

from choreography.core import clock
from choreography.core.conf import SUBJECT_LENGTH, conf
from choreography.core.errors import ContractError, Unusable
from choreography.events.messages import Announced, Event
from choreography.events.registry import Reaction
from choreography.events.versions import older_versions
from choreography.outbox import tracing
from choreography.outbox.tracing import span_of, traceparent_of
from choreography.storage.bulk import insert_all
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cause:
    """The reaction that is running, and the event it reacts to."""

    reaction: Reaction
    event: Event[Any]


@dataclass(frozen=True)
class Fact:
    """Something announced that is not in the outbox yet.

    It is registered with Django as an on-commit callback, because Django drops those together with the savepoint in
    which they were registered.
    """

    data: Announced
    subject: str
    id: UUID
    time: datetime
    cause: Event[Any] | None
    request: str | None
    """``traceparent`` of the web request."""
    fact_id: UUID | None = None
    """The id of the fact, if this is an older version of it."""

    def __call__(self) -> None:
        """There is nothing to do after the commit."""


_cause: ContextVar[Cause | None] = ContextVar("cause", default=None)
#: What the open transactions have announced, by service.
_collected: ContextVar[dict[str, list[Fact]] | None] = ContextVar("collected", default=None)


@contextmanager
def caused_by(reaction: Reaction, event: Event[Any]) -> Iterator[None]:
    """Everything announced inside is announced by ``reaction`` because of ``event``."""
    token = _cause.set(Cause(reaction, event))
    try:
        yield
    finally:
        _cause.reset(token)


@contextmanager
def transaction_of(service: str) -> Iterator[None]:
    """One transaction on a service's database: its own change and the events that report it.

    Raises:
        ContractError: at the end, if an event is larger than ``MAX_BODY_BYTES``: the transaction is rolled back.
    """
    tables = ServiceTables(service)
    outer = _collected.get() or {}
    with transaction.atomic(using=tables.alias):
        if service in outer:
            yield
            return
        facts: list[Fact] = []
        token = _collected.set({**outer, service: facts})
        try:
            yield
        finally:
            _collected.reset(token)
        # Django drops the on-commit callbacks of a savepoint that was rolled back: those facts are not announced.
        standing = {id(callback) for _, callback, *_ in connections[tables.alias].run_on_commit}
        facts = [fact for fact in facts if id(fact) in standing]
        if facts and not connections[tables.alias].needs_rollback:
            _write(tables, facts)


def announce(fact: Announced, *, subject: UUID | str) -> None:
    """Append ``fact`` to the outbox of the service whose fact it is, when the open transaction ends.

    So are the older versions that are made of it (``@downcasts``).

    Args:
        fact: what became true in the transaction that is open now.
        subject: what it is about, such as the id of an order: 1 to 200 characters, none of them NUL.

    Raises:
        ContractError: there is no open ``transaction_of`` the service, the subject is none, or the running reaction
            belongs to another service or did not declare that it announces this.
    """
    cause = _cause.get()
    _refuse_undeclared(fact, cause)
    facts = (_collected.get() or {}).get(fact.service)
    if facts is None:
        raise ContractError(
            f"{fact.event_type} must be announced inside transaction_of({fact.service!r}), "
            "together with the change it reports"
        )
    if not 0 < len(str(subject)) <= SUBJECT_LENGTH:
        raise ContractError(
            f"{fact.event_type} is announced about a subject of {len(str(subject))} characters: "
            f"a subject has 1 to {SUBJECT_LENGTH}"
        )
    if "\0" in str(subject):
        raise ContractError(
            f"{fact.event_type} is announced about a subject with a NUL character, which can't be stored"
        )
    alias = ServiceTables(fact.service).alias
    announced = Fact(fact, str(subject), clock.new_id(), clock.now(), cause.event if cause else None, tracing.current())
    older = [replace(announced, data=it, id=clock.new_id(), fact_id=announced.id) for it in older_versions(fact)]
    for version in (announced, *older):
        facts.append(version)
        transaction.on_commit(version, using=alias)


def notification_channel(service: str) -> str:
    """The PostgreSQL notification channel on which a service's relay listens."""
    return f"{service}_outbox"


def _write(tables: ServiceTables, facts: Sequence[Fact]) -> None:
    sequences = _last_sequences(tables, {fact.subject for fact in facts})
    outbox = tables.outbox.model
    rows = []
    for fact in facts:
        sequences[fact.subject] += 1
        sequence = sequences[fact.subject]
        if fact.cause is not None and sequence > conf().max_repetitions:
            _refuse_repetition(tables, fact)
        event = _event(fact, sequence)
        body = event.to_json()
        if (size := len(body.encode())) > conf().max_body_bytes:
            raise ContractError(
                f"{event.type} about {event.subject} has {size} bytes, more than the {conf().max_body_bytes} that "
                "readers take: announce less, or a reference to it (CHOREOGRAPHY['MAX_BODY_BYTES'])"
            )
        rows.append(
            outbox(
                event_id=event.id,
                fact_id=event.factid,
                event_type=event.type,
                subject=event.subject,
                sequence=sequence,
                caused_by=fact.cause.id if fact.cause else None,
                body=body,
                announced_at=event.time,
            )
        )
    insert_all(rows, tables.alias)
    for row in rows:
        log.debug("event announced", event_id=str(row.event_id), event_type=row.event_type, flow=row.subject)


def _refuse_repetition(tables: ServiceTables, fact: Fact) -> None:
    """Raise ``Unusable`` if the event was announced about the subject too often: what causes it goes on for ever."""
    event_type, most = fact.data.event_type, conf().max_repetitions
    times = tables.outbox.filter(subject=fact.subject, event_type=event_type).count()
    if times >= most:
        raise Unusable(
            f"{event_type} was announced {times} times about {fact.subject}: reactions seem to go round in a circle "
            "(CHOREOGRAPHY['MAX_REPETITIONS'])"
        )


def _last_sequences(tables: ServiceTables, subjects: set[str]) -> Counter[str]:
    """The last sequence of each subject, purged events included; and wake the relay.

    The same statement notifies a relay that waits, once this transaction commits (PostgreSQL; elsewhere the relay
    polls).
    """
    outbox, counters = tables.outbox.model._meta.db_table, tables.counters.model._meta.db_table
    connection = connections[tables.alias]
    values = ", ".join(["%s"] * len(subjects))
    query = (
        f'SELECT subject, sequence FROM "{counters}" WHERE subject IN ({values}) UNION ALL'  # noqa: S608
        f' SELECT subject, max(sequence) FROM "{outbox}" WHERE subject IN ({values}) GROUP BY subject'
    )
    parameters = [*subjects, *subjects]
    if connection.vendor == "postgresql":
        query += " UNION ALL SELECT NULL, NULL FROM pg_notify(%s, '')"
        parameters.append(notification_channel(tables.service))
    found: Counter[str] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        for subject, sequence in cursor.fetchall():
            if subject is not None:
                found[subject] = max(found[subject], sequence)
    return found


def _event(fact: Fact, sequence: int) -> Event[Any]:
    flow = (fact.cause.correlationid or fact.cause.subject) if fact.cause else fact.subject
    return Event[Any](
        id=fact.id,
        type=fact.data.event_type,
        source=fact.data.service,
        subject=fact.subject,
        time=fact.time,
        correlationid=flow,
        causationid=(fact.cause.given_id or str(fact.cause.id)) if fact.cause else None,
        sequence=sequence,
        parentspan=None if fact.cause else span_of(fact.request),
        hops=(fact.cause.hops or 0) + 1 if fact.cause else None,
        factid=fact.fact_id,
        traceparent=traceparent_of(fact.id, flow, fact.cause.traceparent if fact.cause else fact.request),
        data=fact.data,
    )


def _refuse_undeclared(fact: Announced, cause: Cause | None) -> None:
    if cause is None:
        return
    if fact.service != cause.reaction.service:
        raise ContractError(f"{cause.reaction.name} can't announce {fact.event_type}: it is a fact of {fact.service}")
    if fact.event_type not in cause.reaction.announces:
        raise ContractError(
            f"{cause.reaction.name} announces {fact.event_type} without saying so: "
            f"add {type(fact).__name__} to its @reacts_to(..., announces=[...])"
        )
