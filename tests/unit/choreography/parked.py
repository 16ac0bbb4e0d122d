"""Dead letters to work on: orders hears that payments were captured for orders it does not know."""

from typing import Any
from uuid import UUID

from choreography.core import clock
from choreography.events.messages import Event
from choreography.storage.models import DeadLetter
from choreography.storage.tables import ServiceTables
from orders.models import Order
from payments.events import PaymentCaptured
from tests.shop_in_a_box import Shop


def captured(order_id: UUID, amount: int = 2500) -> bytes:
    """The event that an order's payment was captured, as payments would announce it."""
    event = Event[Any](
        id=clock.new_id(),
        type=PaymentCaptured.event_type,
        source="payments",
        subject=str(order_id),
        time=clock.now(),
        data=PaymentCaptured(amount=amount, currency="EUR"),
    )
    return event.to_json().encode()


def park(shop: Shop, number: int = 1) -> list[Any]:
    """Park dead letters of one fingerprint. Returns all of orders' dead letters, oldest first."""
    for _ in range(number):
        shop.send("orders", captured(clock.new_id()))
    shop.drain()
    return dead_letters()


def mend(*broken: DeadLetter) -> None:
    """Create the orders that were missing."""
    for dead_letter in broken:
        Order.objects.create(total=2500, currency="EUR", pk=dead_letter.subject)


def dead_letters() -> list[Any]:
    """Orders' dead letters, oldest first."""
    return list(ServiceTables("orders").dead_letters.order_by("pk"))


def states() -> list[str]:
    """The states of orders' dead letters, oldest first."""
    return [dead_letter.state for dead_letter in dead_letters()]


def history() -> list[tuple[str, str]]:
    """Every action on orders' dead letters and its outcome, oldest first."""
    lines = ServiceTables("orders").actions.order_by("pk")
    return [(line.what, line.outcome) for line in lines]
