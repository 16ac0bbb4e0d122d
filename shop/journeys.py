"""What happened to orders, read from what every service announced and heard, in the order in which it happened."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from choreography.core.conf import conf
from choreography.storage.tables import ServiceTables
from orders.models import Order

#: Keys behind the newest one that are looked at again: transactions don't commit in the order of their keys.
_OVERLAP = 100


@dataclass(frozen=True, order=True)
class Step:
    """Something a service announced, or heard and reacted to."""

    at: datetime
    service: str
    order_id: UUID
    event_type: str
    reaction: str = ""
    """Empty where the event was announced."""
    attempts: int = 0
    """How many the reaction took, the one that worked included."""

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
    table: str

    @property
    def rows(self) -> Any:
        return getattr(ServiceTables(self.service), self.table)

    def step(self, row: Any) -> Step:
        if self.table == "outbox":
            return Step(row.announced_at, self.service, row.subject, row.event_type)
        return Step(row.handled_at, self.service, row.subject, row.event_type, row.reaction, row.attempts)


def sources() -> list[Source]:
    """Every table that tells of events."""
    return [Source(service, table) for service in conf().services for table in ("outbox", "inbox")]


def journey(order_id: UUID) -> list[Step]:
    """All that is on record of an order."""
    return sorted(source.step(row) for source in sources() for row in source.rows.filter(subject=order_id))


class Follower:
    """Sees each step once, from the moment this is made."""

    def __init__(self) -> None:
        self._last: dict[Source, int] = {}
        self._seen: dict[Source, set[int]] = {}
        for source in sources():
            newest = source.rows.order_by("-pk").first()
            self._last[source] = newest.pk if newest else 0
            self._seen[source] = {row.pk for row in self._window(source)}

    def new_steps(self) -> list[Step]:
        """What has happened since the last call, the oldest first."""
        return sorted(step for source in self._last for step in self._news(source))

    def _news(self, source: Source) -> list[Step]:
        rows = list(self._window(source))
        new = [source.step(row) for row in rows if row.pk not in self._seen[source]]
        self._last[source] = max([self._last[source], *(row.pk for row in rows)])
        self._seen[source] = {row.pk for row in rows if row.pk > self._last[source] - _OVERLAP}
        return new

    def _window(self, source: Source) -> Iterator[Any]:
        yield from source.rows.filter(pk__gt=self._last[source] - _OVERLAP).iterator()


def lines(steps: Iterable[Step]) -> Iterator[str]:
    """A line per step: seconds since its order was placed, the order, the service, what it did."""
    steps = list(steps)
    orders = Order.objects.in_bulk({step.order_id for step in steps})
    for step in steps:
        order = orders.get(step.order_id) or Order(pk=step.order_id)
        seconds = max((step.at - order.placed_at).total_seconds(), 0.0)
        yield f"+{seconds:6.2f} s  {order.number}  {step.service:<8}  {step}"
