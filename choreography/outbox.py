"""Announce a fact: append the event to the service's own outbox, in the transaction that makes it true."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from django.db import connections
from django.db.models import Max

from choreography import world
from choreography.contracts import Announced, Event
from choreography.errors import ContractError
from choreography.models import alias_of, table_of
from choreography.registry import Reaction

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cause:
    """The reaction that is running and the event it reacts to."""

    reaction: Reaction
    event: Event[Any]


_cause: ContextVar[Cause | None] = ContextVar("cause", default=None)


@contextmanager
def caused_by(reaction: Reaction, event: Event[Any]) -> Iterator[None]:
    """Everything announced inside is announced by ``reaction`` because of ``event``."""
    token = _cause.set(Cause(reaction, event))
    try:
        yield
    finally:
        _cause.reset(token)


def announce(fact: Announced, *, subject: UUID) -> Event[Any]:
    """Append ``fact`` to the outbox of the service whose fact it is.

    Args:
        fact: what became true in the transaction that is open now.
        subject: the order it is about.

    Returns:
        The event as it will go out.

    Raises:
        ContractError: there is no open transaction on the service's database, or the running reaction belongs to
            another service or did not declare that it announces this.
    """
    cause = _cause.get()
    alias = alias_of(fact.service)
    _refuse_undeclared(fact, cause)
    if not connections[alias].in_atomic_block:
        raise ContractError(
            f"{fact.event_type} must be announced inside transaction.atomic(using={alias!r}), "
            "together with the change it reports"
        )
    outbox = table_of(fact.service, "Outbox").objects.using(alias)
    last = outbox.filter(subject=subject).aggregate(last=Max("sequence"))["last"] or 0
    event_id = world.new_id()
    event = Event[Any](
        id=event_id,
        type=fact.event_type,
        source=fact.service,
        subject=subject,
        time=world.now(),
        correlationid=cause.event.correlationid or str(subject) if cause else str(subject),
        causationid=cause.event.id if cause else None,
        sequence=last + 1,
        traceparent=f"00-{subject.hex}-{event_id.hex[-16:]}-01",
        data=fact,
    )
    outbox.create(
        event_id=event.id,
        event_type=event.type,
        subject=subject,
        sequence=event.sequence,
        caused_by=event.causationid,
        body=event.to_json(),
        announced_at=event.time,
    )
    wake_relay(fact.service, alias)
    log.debug("event announced", event_id=str(event.id), event_type=event.type, flow=event.correlationid)
    return event


def wake_channel(service: str) -> str:
    """The PostgreSQL notification channel on which a service's relay listens."""
    return f"{service}_outbox"


def wake_relay(service: str, alias: str) -> None:
    """Tell a waiting relay, once this transaction commits (PostgreSQL; elsewhere the relay polls)."""
    connection = connections[alias]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [wake_channel(service)])


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
