"""The scenarios an order can make, for tests that put the same obstacle into each of them."""

from collections.abc import Callable
from dataclasses import dataclass

from orders.models import Order
from orders.services import request_cancellation
from tests.shop_in_a_box import Shop


@dataclass(frozen=True)
class Scenario:
    """An order, and how it ends."""

    name: str
    end: str
    token: str = "tok_approved"
    street: str = "Main Street 1"
    begin: Callable[[Shop, Order], None] = lambda shop, order: None
    """What happens before everything takes its course."""

    def start(self, shop: Shop) -> Order:
        order = shop.place(self.token, self.street)
        self.begin(shop, order)
        return order

    def __str__(self) -> str:
        return self.name


def _cancel(shop: Shop, order: Order) -> None:
    request_cancellation(order.pk)


def _cancel_once_authorized(shop: Shop, order: Order) -> None:
    shop.hear("payments")
    request_cancellation(order.pk)


def _cancel_once_dispatched(shop: Shop, order: Order) -> None:
    shop.hear("payments")
    shop.hear_all("shipping")
    request_cancellation(order.pk)


SCENARIOS = [
    Scenario("delivered", "completed"),
    Scenario("declined", "cancelled", token="tok_declined_funds"),
    Scenario("gateway fails twice", "completed", token="tok_fails_twice"),
    Scenario("authorization unknown", "completed", token="tok_timeout"),
    Scenario("capture unknown", "completed", token="tok_capture_timeout"),
    Scenario("capture refused", "dispatched", token="tok_capture_refused"),
    Scenario("undeliverable", "cancelled", street="Undeliverable Street 1"),
    Scenario("lost", "cancelled", street="Lost Lane 1"),
    Scenario("cancelled at once", "cancelled", begin=_cancel),
    Scenario("cancelled when authorized", "cancelled", street="Unreachable Road 1", begin=_cancel_once_authorized),
    Scenario("cancelled too late", "completed", begin=_cancel_once_dispatched),
]
