"""The one transaction in which deliveries to a reaction take effect, and what is asked of the outside world before."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connections

from choreography.core import clock
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import NotYet, Outage
from choreography.events.messages import Event
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import Delivery, Done, Duplicate, Left, Outcome
from choreography.inbox.parking import resolve
from choreography.outbox.announcing import caused_by, transaction_of
from choreography.storage.bulk import insert_new
from choreography.storage.claims import claimed
from choreography.storage.models import alias_of, table_of


@dataclass(frozen=True)
class Item:
    """A delivery whose event could be read."""

    delivery: Delivery
    event: Event[Any]


def take_effect(reaction: Reaction, items: Sequence[Item]) -> list[Outcome | Left]:
    """Ask the outside world first, if the reaction does, and hold the claims until what came of it is committed.

    What is the only one is never left: then it raises whatever went wrong.

    Raises:
        NotYet: another copy of the only one is being handled.
    """
    if reaction.calls is None:
        return [*_commit(reaction, items)]
    outcomes: dict[UUID, Outcome | Left] = {item.event.id: Left(alone=True) for item in items}
    alias = alias_of(reaction.service)
    with claimed(alias, reaction.name, outcomes) as claims:
        if not claims and len(items) == 1:
            raise NotYet(f"another copy of {reaction.name}:{items[0].event.id} is being handled")
        handled = _handled(reaction, alias, claims)
        answers, left = _ask(reaction, [item.event for item in items if item.event.id in claims - handled])
        outcomes |= left
        ready = [item for item in items if item.event.id in handled or item.event.id in answers]
        if ready:
            outcomes |= zip((item.event.id for item in ready), _commit(reaction, ready, answers), strict=True)
    return [*outcomes.values()]


def _handled(reaction: Reaction, alias: str, event_ids: Collection[UUID]) -> set[UUID]:
    """Those that have taken effect before."""
    if not event_ids:
        return set()
    table = table_of(reaction.service, "Inbox")._meta
    connection, field = connections[alias], table.get_field("event_id")
    prepared = {field.get_db_prep_value(event_id, connection): event_id for event_id in event_ids}
    places = ", ".join(["%s"] * len(prepared))
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT event_id FROM "{table.db_table}" WHERE event_id IN ({places}) AND reaction = %s',  # noqa: S608
            [*prepared, reaction.name],
        )
        return {prepared[found] for (found,) in cursor.fetchall()}


def _ask(reaction: Reaction, events: Sequence[Event[Any]]) -> tuple[dict[UUID, Any], dict[UUID, Left]]:
    """Ask for one event after the other, until time is up or there is nobody to ask.

    Returns:
        The answers by event id, and what was not asked for or could not be answered.

    Raises:
        Exception: whatever went wrong, if it is the only event.
    """
    if not events or reaction.calls is None:
        return {}, {}
    ask = reaction.calls(events) if reaction.grouped else reaction.calls
    answers: dict[UUID, Any] = {}
    left = {event.id: Left(alone=False) for event in events}
    until = clock.now() + conf().asking
    for event in events:
        try:
            answers[event.id] = ask(event)
        except Exception as error:  # judged when it happens to the event on its own
            if len(events) == 1:
                raise
            left[event.id] = Left(alone=True)
            if issubclass(classify(error), Outage):
                break
        else:
            del left[event.id]
        if clock.now() >= until:
            break
    return answers, left


def _commit(
    reaction: Reaction, items: Sequence[Item], answers: Mapping[UUID, Any] | None = None
) -> list[Done | Duplicate]:
    """The one transaction: the inbox rows, the reaction's changes, and what it announces."""
    alias = alias_of(reaction.service)
    inbox = table_of(reaction.service, "Inbox")
    rows = [
        inbox(
            event_id=item.event.id,
            reaction=reaction.name,
            event_type=item.event.type,
            subject=item.event.subject,
            attempts=item.delivery.history.attempts + 1,
        )
        for item in items
    ]
    with transaction_of(reaction.service):
        entered = {row.event_id for row in insert_new(rows, by=("event_id", "reaction"), using=alias)}
        events = [item.event for item in items if item.event.id in entered]
        if reaction.grouped and events:
            with caused_by(reaction, *events):
                reaction.function(events, *([] if answers is None else [[answers[event.id] for event in events]]))
        else:
            for event in events:
                with caused_by(reaction, event):
                    reaction.function(event, *([] if answers is None else [answers[event.id]]))
        resolve([item.delivery for item in items])
    return [Done() if item.event.id in entered else Duplicate() for item in items]
