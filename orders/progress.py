"""How far an order has come, as its page shows it: all from orders' own tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from choreography.core import clock
from orders import money
from orders.models import DeadLetter, Inbox, Order, OrderLine, Outbox

#: A cancelled order of which nothing was heard for so long hears no more.
_SILENCE = timedelta(minutes=1)


@dataclass(frozen=True)
class Fact:
    """Something orders has heard of an order, or waits to hear (``at`` is ``None``)."""

    what: str | Promise
    at: datetime | None
    detail: str = ""


class Progress:
    """An order with everything around it. Each part is read once, when it is asked for."""

    def __init__(self, order: Order) -> None:
        self.order = order

    @property
    def status(self) -> str:
        """The status as people read it."""
        return str(Order.Status(self.order.status).label)

    @property
    def total(self) -> str:
        return money.display(self.order.total, self.order.currency)

    @property
    def country(self) -> str:
        """The country's name."""
        return money.country_name(self.order.country)

    @cached_property
    def lines(self) -> list[tuple[OrderLine, str, str]]:
        """Each line with the price of one and of all."""
        return [
            (line, self._money(line.unit_price), self._money(line.unit_price * line.quantity))
            for line in self.order.lines.order_by("pk")
        ]

    @property
    def facts(self) -> Iterable[Fact]:
        """What was heard, and while the order is open what is still to be heard."""
        order = self.order
        expected = [
            Fact(_("Payment authorized"), order.authorized_at),
            Fact(_("Dispatched"), order.dispatched_at, order.parcel),
            Fact(_("Delivered"), order.delivered_at),
            Fact(_("Payment captured"), order.captured_at, self.total if order.captured_at else ""),
        ]
        yield Fact(_("Placed"), order.placed_at)
        yield from (fact for fact in expected if fact.at or not self.is_over)
        if order.cancel_requested_at:
            yield Fact(_("Cancellation requested"), order.cancel_requested_at, order.reason)
        if order.cancelled_at:
            yield Fact(_("Cancelled"), order.cancelled_at, order.reason)
        if order.released_at:
            yield Fact(_("Payment given back"), order.released_at, self._money(order.released or 0))

    @cached_property
    def announced(self) -> list[Outbox]:
        return list(Outbox.objects.filter(subject=self.order.pk).order_by("position").defer("body"))

    @cached_property
    def heard(self) -> list[Inbox]:
        return list(Inbox.objects.filter(subject=self.order.pk).order_by("pk"))

    @cached_property
    def dead_letters(self) -> list[DeadLetter]:
        """What could not be handled, and is not resolved yet."""
        dead_letters = DeadLetter.objects.filter(subject=self.order.pk).exclude(state=DeadLetter.State.RESOLVED)
        return list(dead_letters.defer("body", "traceback", "headers"))

    @property
    def is_over(self) -> bool:
        """Completed or cancelled."""
        return self.order.is_completed or self.order.is_cancelled

    @property
    def is_settled(self) -> bool:
        """Over, with nothing left to be published and nothing more to be heard: the page may stop looking."""
        return self.is_over and self._money_is_settled and all(event.published_at for event in self.announced)

    @property
    def _money_is_settled(self) -> bool:
        """What was held for a cancelled order was given back. One that was never paid for may still hear of it."""
        order = self.order
        if order.cancelled_at is None or order.released_at is not None:
            return True
        return order.authorized_at is None and clock.now() - order.cancelled_at > _SILENCE

    def _money(self, amount: int) -> str:
        return money.display(amount, self.order.currency)
