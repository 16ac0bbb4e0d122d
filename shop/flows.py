"""The history of orders: the events that services announced and the reactions to them, by time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from choreography.core.conf import conf
from choreography.events.accounts import account_type
from choreography.storage.tables import ServiceTables
from orders.models import Order

#: Keys before the newest one that are read again: transactions do not commit in the order of their keys.
_OVERLAP = 100

_TABLES: tuple[Literal["outbox", "inbox"], ...] = ("outbox", "inbox")


@dataclass(frozen=True, order=True)
class Step:
    """An event that a service announced, or a reaction that took effect."""

    at: datetime
    service: str
    order_id: UUID
    event_type: str
    reaction: str = ""
    """Empty if the event was announced."""
    attempts: int = 0
    """Attempts of the reaction, including the successful one."""

    def __str__(self) -> str:
        event = self.event_type.split(".")[1]
        if not self.reaction:
            return _("announced %s") % event
        reaction = self.reaction.removeprefix(f"{self.service}.")
        heard = _("heard %(event)s: %(reaction)s") % {"event": event, "reaction": reaction}
        if self.attempts > 1:
            heard += ngettext(", in %d attempt", ", in %d attempts", self.attempts) % self.attempts
        return heard


@dataclass(frozen=True)
class Source:
    """A service's outbox or inbox."""

    service: str
    table: Literal["outbox", "inbox"]

    @property
    def rows(self) -> Any:
        tables = ServiceTables(self.service)
        if self.table == "inbox":
            return tables.inbox
        # Each fact once, in its newest version; and not what is about an hour instead of an order.
        return tables.outbox.filter(fact_id=None).exclude(event_type=account_type(self.service))

    def step(self, row: Any) -> Step:
        if self.table == "outbox":
            return Step(row.announced_at, self.service, UUID(row.subject), row.event_type)
        return Step(row.handled_at, self.service, UUID(row.subject), row.event_type, row.reaction, row.attempts)


def sources() -> list[Source]:
    """The outbox and the inbox of every service an order goes through. Journal hears all, and does nothing about it."""
    return [Source(service, table) for service in conf().services if service != "journal" for table in _TABLES]


def steps(order_id: UUID) -> list[Step]:
    """Every step of an order, by time."""
    return sorted(source.step(row) for source in sources() for row in source.rows.filter(subject=order_id))


class Follower:
    """Returns each step once, beginning when the follower is created."""

    def __init__(self) -> None:
        self._last: dict[Source, int] = {}
        self._seen: dict[Source, set[int]] = {}
        for source in sources():
            newest = source.rows.order_by("-pk").first()
            self._last[source] = newest.pk if newest else 0
            self._seen[source] = {row.pk for row in self._window(source)}

    def new_steps(self) -> list[Step]:
        """The steps since the last call, the oldest first."""
        return sorted(step for source in self._last for step in self._new_of(source))

    def _new_of(self, source: Source) -> list[Step]:
        rows = list(self._window(source))
        new = [source.step(row) for row in rows if row.pk not in self._seen[source]]
        self._last[source] = max([self._last[source], *(row.pk for row in rows)])
        self._seen[source] = {row.pk for row in rows if row.pk > self._last[source] - _OVERLAP}
        return new

    def _window(self, source: Source) -> Iterator[Any]:
        yield from source.rows.filter(pk__gt=self._last[source] - _OVERLAP).iterator()


def lines(steps: Iterable[Step]) -> Iterator[str]:
    """A line per step: seconds since the order was placed, order number, service, event or reaction."""
    steps = list(steps)
    orders = Order.objects.in_bulk({step.order_id for step in steps})
    for step in steps:
        order = orders.get(step.order_id) or Order(pk=step.order_id)
        seconds = max((step.at - order.placed_at).total_seconds(), 0.0)
        yield f"+{seconds:6.2f} s  {order.number}  {step.service:<8}  {step}"
