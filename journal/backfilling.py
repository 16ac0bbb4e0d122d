"""Fill the journal with what happened before it listened, from the outboxes, inboxes and dead letters that are here.

In bounded batches, from where the last run ended. What the journal knows already is recognised and left alone.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.db import transaction

from choreography.core.conf import conf
from choreography.events.messages import Event, read_event
from choreography.storage.tables import ServiceTables
from journal.contracts import event_types
from journal.heard import Anything, DeliveryReport
from journal.history import History
from journal.models import ALIAS, Cursor, Entry

#: Rows read in one transaction.
_ROWS = 500
#: Events first: what became of them belongs to their flows.
_TABLES: Final = ("outbox", "inbox", "dead_letters")

Progress = Callable[[str, str, int], None]


def backfill(progress: Progress = lambda service, table, rows: None, *, again: bool = False) -> int:
    """Fill in what is missing. Returns how many rows were read.

    Args:
        progress: called after each batch with the service, the table and how many rows of it were read so far.
        again: from the beginning, and not from where the last run ended.
    """
    total = 0
    for table in _TABLES:
        for service in conf().services:
            if service == "journal":
                continue
            if again:
                Cursor.objects.filter(name=_name(service, table)).delete()
            read = 0
            while rows := _next(service, table):
                read += rows
                progress(service, table, read)
            total += read
    return total


def _next(service: str, table: str) -> int:
    """Read the next rows of a table. Returns how many."""
    rows_of: Any = getattr(ServiceTables(service), table)
    with transaction.atomic(using=ALIAS):
        cursor, _created = Cursor.objects.get_or_create(name=_name(service, table))
        rows = [*rows_of.filter(pk__gt=cursor.position).order_by("pk")[:_ROWS]]
        if not rows:
            return 0
        history = History()
        _READ[table](history, service, rows)
        history.write()
        cursor.position = rows[-1].pk
        cursor.save()
    return len(rows)


def _events(history: History, service: str, rows: Iterable[Any]) -> None:
    kept = {*event_types()}
    for row in rows:
        if row.event_type not in kept:
            continue
        event: Event[Anything] = read_event(row.body.encode(), Anything)
        history.add_event(event.model_copy(update={"published_at": row.published_at}), event.data.model_extra or {})


def _effects(history: History, service: str, rows: Iterable[Any]) -> None:
    _outcomes(history, service, rows, lambda row: {"outcome": "done", "ended_at": row.handled_at})


def _parked(history: History, service: str, rows: Iterable[Any]) -> None:
    parked = [row for row in rows if row.state == "parked" and row.event_id]
    _outcomes(
        history,
        service,
        parked,
        lambda row: {"outcome": "parked", "ended_at": row.parked_at, "error": row.error, "dead_letter": row.key},
    )


def _outcomes(history: History, service: str, rows: Iterable[Any], more: Callable[[Any], dict[str, Any]]) -> None:
    rows = [*rows]
    flows = _flows({row.event_id for row in rows})
    for row in rows:
        history.add_outcome(
            service,
            DeliveryReport(
                event_id=str(row.event_id),
                event_type=row.event_type,
                flow=flows.get(row.event_id, row.subject),
                reaction=row.reaction,
                attempt=row.attempts,
                **more(row),
            ),
        )


def _flows(event_ids: Iterable[Any]) -> dict[Any, str]:
    """The flows of events, as far as the journal knows them."""
    return dict(Entry.objects.filter(event_id__in=event_ids).values_list("event_id", "flow"))


def _name(service: str, table: str) -> str:
    return f"backfill {service} {table}"


_READ: Final[dict[str, Callable[[History, str, Iterable[Any]], None]]] = {
    "outbox": _events,
    "inbox": _effects,
    "dead_letters": _parked,
}
