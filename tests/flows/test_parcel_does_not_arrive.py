"""The carrier refuses the parcel, or loses it: the customer gets the money back."""

from orders.models import Order
from shipping.models import Shipment
from tests.shop_in_a_box import Shop, assert_invariants


def test_an_undeliverable_address_voids_the_authorization(shop: Shop) -> None:
    order = shop.place(street="Undeliverable Street 1")
    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "no_such_address")
    assert shop.announced(order) == [
        "orders.order_placed.v2",
        "payments.payment_authorized.v1",
        "shipping.shipment_failed.v1",
        "orders.order_cancelled.v1",
        "payments.payment_voided.v1",
    ]
    payment = shop.payment(order)
    assert (payment.authorized, payment.voided, payment.captured) == (order.total, order.total, 0)
    assert now.released == order.total
    assert shop.shipment(order).state == Shipment.State.FAILED
    assert_invariants(shop, [order])


def test_a_lost_parcel_is_refunded(shop: Shop) -> None:
    order = shop.place(street="Lost Lane 1")
    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "lost")
    assert shop.announced(order) == [
        "orders.order_placed.v2",
        "payments.payment_authorized.v1",
        "shipping.shipment_dispatched.v1",
        "payments.payment_captured.v1",
        "shipping.shipment_failed.v1",
        "orders.order_cancelled.v1",
        "payments.payment_refunded.v1",
    ]
    payment = shop.payment(order)
    assert (payment.captured, payment.refunded) == (order.total, order.total)
    assert now.released == order.total
    assert_invariants(shop, [order])


def test_a_parcel_lost_before_the_money_was_taken_voids_the_authorization(shop: Shop) -> None:
    order = shop.place(street="Lost Lane 1")
    shop.hear("payments")
    shop.hear_all("shipping")
    shop.time.advance(5)
    shop.tick("shipping.track_parcels")
    shop.hear_all("orders")
    shop.hear("payments", "orders.order_cancelled.v1")
    assert shop.payment(order).voided == order.total

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.charged(order.pk) == 0
    assert "payments.payment_captured.v1" not in shop.announced(order)
    assert_invariants(shop, [order])
