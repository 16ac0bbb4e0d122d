"""The customer's bank says no: the order is cancelled, nothing is held and nothing is sent."""

import pytest

from orders.models import Order
from shipping.models import Shipment
from tests.shop_in_a_box import Shop, assert_invariants


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_declined_funds", "insufficient_funds"),
        ("tok_declined_expired", "expired_card"),
        ("tok_declined_fraud", "suspected_fraud"),
        ("tok_nobody_knows", "invalid_token"),
    ],
)
def test_a_declined_card_cancels_the_order(shop: Shop, token: str, reason: str) -> None:
    order = shop.place(token)
    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, reason)
    assert shop.announced(order) == [
        "orders.order_placed.v2",
        "payments.payment_declined.v1",
        "orders.order_cancelled.v1",
    ]
    assert shop.payment(order).declined == reason
    assert shop.shipment(order).state == Shipment.State.CANCELLED
    assert shop.parcels(order.pk) == []
    assert_invariants(shop, [order])
