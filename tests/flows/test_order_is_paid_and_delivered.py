"""The way it should go: placed, paid for, shipped, delivered."""

import pytest

from orders.models import Order
from tests.shop_in_a_box import Shop, assert_invariants


def test_an_order_is_paid_for_shipped_and_completed(shop: Shop) -> None:
    order = shop.place()
    assert shop.status(order) == Order.Status.PLACED

    shop.settle()

    assert shop.status(order) == Order.Status.COMPLETED
    assert shop.announced(order) == [
        "orders.order_placed.v2",
        "payments.payment_authorized.v1",
        "shipping.shipment_dispatched.v1",
        "payments.payment_captured.v1",
        "shipping.shipment_delivered.v1",
        "orders.order_completed.v1",
    ]
    assert shop.payment(order).kept == order.total == 2500
    assert shop.charged(order.pk) == order.total
    assert shop.parcels(order.pk) == ["delivered"]
    assert_invariants(shop, [order])


def test_its_status_moves_on_with_every_fact(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear("orders", "payments.payment_authorized.v1")
    assert shop.status(order) == Order.Status.AUTHORIZED
    shop.hear_all("shipping")
    shop.hear("orders", "shipping.shipment_dispatched.v1")
    assert shop.status(order) == Order.Status.DISPATCHED
    assert shop.order(order).parcel == shop.shipment(order).parcel
    shop.settle_at_once()
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


@pytest.mark.parametrize("street", ["Slow Street 1", "Main Street 1"])
@pytest.mark.parametrize("token", ["tok_approved", "tok_slow"])
def test_a_slow_provider_or_carrier_only_takes_longer(shop: Shop, token: str, street: str) -> None:
    order = shop.place(token, street)
    shop.settle_at_once()
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_orders_do_not_meet(shop: Shop) -> None:
    paid, declined, lost = shop.place(), shop.place("tok_declined_fraud"), shop.place(street="Lost Lane 1")
    shop.settle_at_once()
    assert [shop.status(order) for order in (paid, declined, lost)] == ["completed", "cancelled", "cancelled"]
    assert_invariants(shop, [paid, declined, lost])


def test_an_order_is_placed_while_everything_else_stands_still(shop: Shop) -> None:
    order = shop.place()
    assert shop.status(order) == Order.Status.PLACED
    assert shop.broker.size("payments") == 0, "nothing has been relayed"
    shop.time.advance(3600)
    shop.settle_at_once()
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])
