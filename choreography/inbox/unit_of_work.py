"""The one transaction in which deliveries to a reaction take effect, and the external calls before it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from uuid import UUID

from django.db import connections

from choreography.core import clock
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import NotYet, Outage
from choreography.events.messages import Event
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import Delivery, Done, Duplicate, Outcome, Unhandled
from choreography.inbox.parking import resolve
from choreography.outbox.announcing import caused_by, transaction_of
from choreography.storage.bulk import insert_new
from choreography.storage.claims import claimed
from choreography.storage.tables import ServiceTables


def take_effect(reaction: Reaction, deliveries: Sequence[Delivery]) -> list[Outcome | Unhandled]:
    """Call the external system first, if the reaction does, and keep the claims until the result is committed.

    A single delivery is never ``Unhandled``; whatever goes wrong with it is raised.

    Args:
        deliveries: to ``reaction``, whose events could be read, no two of one subject.

    Raises:
        NotYet: another copy of the single delivery is being handled.
    """
    if reaction.ask is None:
        return [*_commit(reaction, deliveries)]
    tables = ServiceTables(reaction.service)
    outcomes: dict[UUID, Outcome | Unhandled] = {each.event.id: Unhandled(alone=True) for each in deliveries}
    with claimed(tables.alias, reaction.name, outcomes) as claims:
        if not claims and len(deliveries) == 1:
            raise NotYet(f"another copy of {reaction.name}:{deliveries[0].event.id} is being handled")
        handled = _handled(reaction, tables, claims)
        answers, unhandled = _ask(reaction, [each.event for each in deliveries if each.event.id in claims - handled])
        outcomes |= unhandled
        ready = [each for each in deliveries if each.event.id in handled or each.event.id in answers]
        if ready:
            outcomes |= zip((each.event.id for each in ready), _commit(reaction, ready, answers), strict=True)
    return [*outcomes.values()]


def _handled(reaction: Reaction, tables: ServiceTables, event_ids: Collection[UUID]) -> set[UUID]:
    """The events that have taken effect before."""
    if not event_ids:
        return set()
    meta, connection = tables.inbox.model._meta, connections[tables.alias]
    field: Any = meta.get_field("event_id")
    prepared = {field.get_db_prep_value(event_id, connection): event_id for event_id in event_ids}
    values = ", ".join(["%s"] * len(prepared))
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT event_id FROM "{meta.db_table}" WHERE event_id IN ({values}) AND reaction = %s',  # noqa: S608
            [*prepared, reaction.name],
        )
        return {prepared[found] for (found,) in cursor.fetchall()}


def _ask(reaction: Reaction, events: Sequence[Event[Any]]) -> tuple[dict[UUID, Any], dict[UUID, Unhandled]]:
    """Call the external system for one event after the other, until time is up or the system is down.

    Returns:
        The answers by event id, and the events that have none.

    Raises:
        Exception: whatever went wrong, if it is the only event.
    """
    if not events or reaction.ask is None:
        return {}, {}
    answers: dict[UUID, Any] = {}
    unhandled = {event.id: Unhandled(alone=False) for event in events}
    until = clock.now() + conf().call_budget
    for event, arguments in zip(events, _arguments_to_ask(reaction, events), strict=True):
        try:
            answers[event.id] = reaction.ask(*arguments)
        except Exception as error:  # judged when it happens to the event on its own
            if len(events) == 1:
                raise
            unhandled[event.id] = Unhandled(alone=True)
            if issubclass(classify(error), Outage):
                break
        else:
            del unhandled[event.id]
        if clock.now() >= until:
            break
    return answers, unhandled


def _arguments_to_ask(reaction: Reaction, events: Sequence[Event[Any]]) -> Iterable[tuple[Any, ...]]:
    """What ``ask`` takes for each event, its row prepared and committed if the reaction says so."""
    if reaction.rows is None:
        return [(event,) for event in events]
    subjects = [event.subject for event in events]
    if reaction.prepare is None:
        return zip(reaction.rows.current(subjects), events, strict=True)
    with transaction_of(reaction.service), reaction.rows.locked(subjects) as rows:
        for row, event in zip(rows, events, strict=True):
            reaction.prepare(row, event)
    return zip(rows, events, strict=True)


def _commit(
    reaction: Reaction, deliveries: Sequence[Delivery], answers: Mapping[UUID, Any] | None = None
) -> list[Done | Duplicate]:
    """The one transaction: the inbox rows, the reaction's changes, and what it announces."""
    tables = ServiceTables(reaction.service)
    inbox = tables.inbox.model
    rows = [
        inbox(
            event_id=each.event.id,
            reaction=reaction.name,
            event_type=each.event.type,
            subject=each.event.subject,
            attempts=each.history.attempts + 1,
        )
        for each in deliveries
    ]
    with transaction_of(reaction.service):
        new = {row.event_id for row in insert_new(rows, by=("event_id", "reaction"), using=tables.alias)}
        _react(reaction, [each.event for each in deliveries if each.event.id in new], answers)
        resolve(deliveries)
    return [Done() if each.event.id in new else Duplicate() for each in deliveries]


def _react(reaction: Reaction, events: Sequence[Event[Any]], answers: Mapping[UUID, Any] | None) -> None:
    """Call the reaction's function for each event, with all their rows locked at once."""
    if not events:
        return
    locked = reaction.rows.locked([event.subject for event in events]) if reaction.rows else nullcontext(events)
    with locked as rows:
        for row, event in zip(rows, events, strict=True):
            before = () if reaction.rows is None else (row,)
            after = () if answers is None else (answers[event.id],)
            with caused_by(reaction, event):
                reaction.function(*before, event, *after)
