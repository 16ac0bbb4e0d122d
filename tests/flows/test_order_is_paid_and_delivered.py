"""The way it should go: placed, paid for, shipped, delivered."""

from orders.models import Order
from tests.shop_in_a_box import Shop


def test_an_order_is_paid_for_shipped_and_completed(shop: Shop) -> None:
    order = shop.place()
    assert shop.order(order).status == Order.Status.PLACED

    shop.settle()

    assert shop.order(order).status == Order.Status.COMPLETED
    assert shop.announced(order) == [
        "orders.order_placed.v1",
        "payments.payment_authorized.v1",
        "shipping.shipment_dispatched.v1",
        "payments.payment_captured.v1",
        "shipping.shipment_delivered.v1",
        "orders.order_completed.v1",
    ]
    assert shop.payment(order).kept == order.total == 2500
    assert shop.charged(order.pk) == order.total
    assert shop.parcels(order.pk) == ["delivered"]
