"""Does the journal's story of each order agree with the services' own rows? Event by event, reaction by reaction."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

from choreography.events.messages import family_of
from choreography.storage.tables import ServiceTables
from journal.models import Entry, Flow, Outcome
from tests.shop_in_a_box import SERVICES

#: Gives the rows of a service's table, ``outbox`` or ``inbox``, about an order.
Rows = Callable[[str, str, str], Iterable[Any]]


def current_rows(service: str, table: str, order: str) -> Iterable[Any]:
    """The rows that there are now."""
    rows: Iterable[Any] = getattr(ServiceTables(service), table).filter(subject=order)
    return rows


def disagreements(orders: Iterable[UUID], rows: Rows = current_rows) -> Iterator[str]:
    """What the journal misses or has invented, a line each. ``rows``: where old ones were deleted meanwhile."""
    for order in map(str, orders):
        yield from _differences(f"{order}: event", _announced(order, rows), _entries(order))
        yield from _differences(f"{order}: effect", _took_effect(order, rows), _done(order))
        yield from _differences(f"{order}: parked", _parked(order), _parked_in_journal(order))


def wrong_flows(orders: Iterable[UUID]) -> Iterator[str]:
    """Flows of orders that have ended, marked or running as if they had not."""
    flows = Flow.objects.filter(pk__in=[str(order) for order in orders])
    yield from (f"{flow.pk} is marked {flow.mark}" for flow in flows.exclude(mark=""))
    yield from (f"{flow.pk} has not ended: {flow.state}" for flow in flows.filter(ended_at=None, mark=""))


def _differences(about: str, rows: set[Any], journal: set[Any]) -> Iterator[str]:
    yield from (f"{about} missing in the journal: {each}" for each in sorted(rows - journal))
    yield from (f"{about} invented by the journal: {each}" for each in sorted(journal - rows))


def _announced(order: str, rows: Rows) -> set[tuple[str, str]]:
    """Facts: the versions of one are one."""
    return {
        (family_of(row.event_type), str(row.fact_id or row.event_id))
        for service in SERVICES
        for row in rows(service, "outbox", order)
    }


def _entries(order: str) -> set[tuple[str, str]]:
    return {(family_of(row.type), str(row.event_id)) for row in Entry.objects.filter(flow=order)}


def _took_effect(order: str, rows: Rows) -> set[tuple[str, str]]:
    return {(row.reaction, str(row.event_id)) for service in SERVICES for row in rows(service, "inbox", order)}


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
