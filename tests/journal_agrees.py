"""Does the journal's story of each order agree with the services' own rows? Event by event, reaction by reaction."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from choreography.storage.tables import ServiceTables
from journal.models import Entry, Flow, Outcome
from tests.shop_in_a_box import SERVICES


def disagreements(orders: Iterable[UUID]) -> Iterator[str]:
    """What the journal misses or has invented, a line each."""
    for order in map(str, orders):
        yield from _differences(f"{order}: event", _announced(order), _entries(order))
        yield from _differences(f"{order}: effect", _took_effect(order), _done(order))
        yield from _differences(f"{order}: parked", _parked(order), _parked_in_journal(order))


def _differences(about: str, rows: set[Any], journal: set[Any]) -> Iterator[str]:
    yield from (f"{about} missing in the journal: {each}" for each in sorted(rows - journal))
    yield from (f"{about} invented by the journal: {each}" for each in sorted(journal - rows))


def _announced(order: str) -> set[tuple[str, str]]:
    return {
        (row.event_type, str(row.event_id))
        for service in SERVICES
        for row in ServiceTables(service).outbox.filter(subject=order)
    }


def _entries(order: str) -> set[tuple[str, str]]:
    return {(row.type, str(row.event_id)) for row in Entry.objects.filter(flow=order)}


def _took_effect(order: str) -> set[tuple[str, str]]:
    return {
        (row.reaction, str(row.event_id))
        for service in SERVICES
        for row in ServiceTables(service).inbox.filter(subject=order)
    }


def _done(order: str) -> set[tuple[str, str]]:
    return {(row.reaction, row.event_id) for row in Outcome.objects.filter(flow=order, what="done")}


def _parked(order: str) -> set[str]:
    return {
        row.key
        for service in SERVICES
        for row in ServiceTables(service).dead_letters.filter(subject=order, state="parked")
    }


def _parked_in_journal(order: str) -> set[str]:
    flow = Flow.objects.filter(pk=order).first()
    return set(flow.state.get("parked", {})) if flow else set()
