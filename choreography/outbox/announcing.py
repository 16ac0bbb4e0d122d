"""Announce a fact: append the event to the service's own outbox, in the transaction that makes it true.

What one transaction announces is collected and written with one statement before it commits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import connections, transaction

from choreography.core import clock
from choreography.core.errors import ContractError
from choreography.events.messages import Announced, Event
from choreography.events.registry import Reaction
from choreography.storage.bulk import insert_all
from choreography.storage.models import alias_of, table_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cause:
    """The reaction that is running, and what it reacts to: one event, or several of different subjects."""

    reaction: Reaction
    events: Sequence[Event[Any]]

    def of(self, subject: UUID) -> Event[Any]:
        """The event because of which something is announced about ``subject``.

        Raises:
            ContractError: there are several events and none is about it.
        """
        if len(self.events) == 1:
            return self.events[0]
        event = next((event for event in self.events if event.subject == subject), None)
        if event is None:
            raise ContractError(f"{self.reaction.name} announces something about {subject}, which no event is about")
        return event


@dataclass(frozen=True)
class Fact:
    """Something announced that is not in the outbox yet.

    It is left with Django as something to do after the commit, because Django drops that together with the savepoint
    in which it became true.
    """

    data: Announced
    subject: UUID
    id: UUID
    time: datetime
    cause: Event[Any] | None

    def __call__(self) -> None:
        """There is nothing to do after the commit."""


_cause: ContextVar[Cause | None] = ContextVar("cause", default=None)
#: What the open transactions have announced, by service.
_collected: ContextVar[dict[str, list[Fact]] | None] = ContextVar("collected", default=None)


@contextmanager
def caused_by(reaction: Reaction, *events: Event[Any]) -> Iterator[None]:
    """Everything announced inside is announced by ``reaction`` because of one of ``events``."""
    token = _cause.set(Cause(reaction, events))
    try:
        yield
    finally:
        _cause.reset(token)


@contextmanager
def transaction_of(service: str) -> Iterator[None]:
    """One transaction on a service's database: its own change and the events that report it."""
    alias = alias_of(service)
    outer = _collected.get() or {}
    with transaction.atomic(using=alias):
        if service in outer:
            yield
            return
        facts: list[Fact] = []
        token = _collected.set({**outer, service: facts})
        try:
            yield
        finally:
            _collected.reset(token)
        # Django forgets what is to be done on commit with the savepoint that is rolled back: those are not announced.
        standing = {id(todo) for _, todo, *_ in connections[alias].run_on_commit}
        facts = [fact for fact in facts if id(fact) in standing]
        if facts and not connections[alias].needs_rollback:
            _write(service, alias, facts)


def announce(fact: Announced, *, subject: UUID) -> None:
    """Append ``fact`` to the outbox of the service whose fact it is, when the open transaction ends.

    Args:
        fact: what became true in the transaction that is open now.
        subject: the order it is about.

    Raises:
        ContractError: there is no open ``transaction_of`` the service, or the running reaction belongs to another
            service, did not declare that it announces this, or reacts to no event about this subject.
    """
    cause = _cause.get()
    _refuse_undeclared(fact, cause)
    facts = (_collected.get() or {}).get(fact.service)
    if facts is None:
        raise ContractError(
            f"{fact.event_type} must be announced inside transaction_of({fact.service!r}), "
            "together with the change it reports"
        )
    announced = Fact(fact, subject, clock.new_id(), clock.now(), cause.of(subject) if cause else None)
    facts.append(announced)
    transaction.on_commit(announced, using=alias_of(fact.service))


def wake_channel(service: str) -> str:
    """The PostgreSQL notification channel on which a service's relay listens."""
    return f"{service}_outbox"


def _write(service: str, alias: str, facts: Sequence[Fact]) -> None:
    outbox = table_of(service, "Outbox")
    counts = _count_and_wake(service, alias, {fact.subject for fact in facts})
    rows = []
    for fact in facts:
        counts[fact.subject] += 1
        event = _event(fact, counts[fact.subject])
        rows.append(
            outbox(
                event_id=event.id,
                event_type=event.type,
                subject=event.subject,
                sequence=event.sequence,
                caused_by=event.causationid,
                body=event.to_json(),
                announced_at=event.time,
            )
        )
    insert_all(rows, alias)
    for row in rows:
        log.debug("event announced", event_id=str(row.event_id), event_type=row.event_type, flow=str(row.subject))


def _count_and_wake(service: str, alias: str, subjects: set[UUID]) -> Counter[UUID]:
    """Ask how many events of each subject were announced, those included that the outbox has forgotten.

    The same statement tells a waiting relay, once this transaction commits (PostgreSQL; elsewhere the relay polls).
    """
    outbox, counted = table_of(service, "Outbox")._meta, table_of(service, "Counted")._meta
    connection, field = connections[alias], outbox.get_field("subject")
    prepared = {field.get_db_prep_value(subject, connection): subject for subject in subjects}
    places = ", ".join(["%s"] * len(prepared))
    query = (
        f'SELECT subject, sequence FROM "{counted.db_table}" WHERE subject IN ({places}) UNION ALL'  # noqa: S608
        f' SELECT subject, max(sequence) FROM "{outbox.db_table}" WHERE subject IN ({places}) GROUP BY subject'
    )
    values = [*prepared, *prepared]
    if connection.vendor == "postgresql":
        query += " UNION ALL SELECT NULL, NULL FROM pg_notify(%s, '')"
        values.append(wake_channel(service))
    found: Counter[UUID] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        for subject, count in cursor.fetchall():
            if subject is not None:
                found[prepared[subject]] = max(found[prepared[subject]], count)
    return found


def _event(fact: Fact, sequence: int) -> Event[Any]:
    return Event[Any](
        id=fact.id,
        type=fact.data.event_type,
        source=fact.data.service,
        subject=fact.subject,
        time=fact.time,
        correlationid=fact.cause.correlationid or str(fact.subject) if fact.cause else str(fact.subject),
        causationid=fact.cause.id if fact.cause else None,
        sequence=sequence,
        traceparent=f"00-{fact.subject.hex}-{fact.id.hex[-16:]}-01",
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
