"""A person cancels an order: shipping decides, and no order is ever both cancelled and shipped."""

import pytest

from choreography.inbox.deliveries import Done, RetryLater
from orders.models import CancellationPending, Order, OrderFinished
from orders.services import request_cancellation
from payments.models import Payment
from shipping.models import Shipment
from tests.flows.providers import Carrier, Gateway
from tests.shop_in_a_box import Shop, assert_invariants


def test_before_anyone_has_heard_of_it_nothing_is_charged_or_sent(shop: Shop) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    assert shop.status(order) == Order.Status.CANCELLING

    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "customer_request")
    assert shop.charged(order.pk) == shop.held(order.pk) == 0
    assert shop.parcels(order.pk) == []
    assert_invariants(shop, [order])


def test_before_payments_hears_of_the_order_nothing_is_ever_authorized(shop: Shop) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    shop.hear_all("shipping")
    shop.hear_all("orders")
    shop.hear("payments", "orders.order_cancelled.v1")

    shop.settle_at_once()

    assert shop.booked(order.pk) == []
    assert shop.announced(order)[-2:] == ["orders.order_cancelled.v1", "payments.payment_voided.v1"]
    assert shop.order(order).released == 0
    assert_invariants(shop, [order])


@pytest.mark.parametrize("token", ["tok_approved", "tok_timeout", "tok_declined_funds"])
def test_while_the_gateway_is_asked_what_it_holds_is_let_go(shop: Shop, gateway: type[Gateway], token: str) -> None:
    order = shop.place(token)

    def cancelled_meanwhile() -> None:
        request_cancellation(order.pk)
        shop.hear_all("shipping")
        shop.hear_all("orders")
        shop.hear("payments", "orders.order_cancelled.v1")
        assert Payment.objects.get(pk=order.pk).order_cancelled

    gateway.meanwhile["authorize"] = cancelled_meanwhile
    shop.hear("payments", "orders.order_placed.v2")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.held(order.pk) == shop.charged(order.pk) == 0
    assert "payments.payment_authorized.v1" not in shop.announced(order)
    assert_invariants(shop, [order])


def test_after_the_authorization_and_before_the_dispatch_the_hold_is_let_go(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("orders")
    request_cancellation(order.pk)
    shop.hear("shipping", "orders.order_placed.v2")
    shop.hear("shipping", "orders.cancellation_requested.v1")

    shop.settle_at_once()

    assert shop.announced(order) == [
        "orders.order_placed.v2",
        "payments.payment_authorized.v1",
        "orders.cancellation_requested.v1",
        "shipping.shipment_cancelled.v1",
        "orders.order_cancelled.v1",
        "payments.payment_voided.v1",
    ]
    assert shop.payment(order).voided == order.total
    assert shop.parcels(order.pk) == []
    assert_invariants(shop, [order])


def test_while_the_carrier_is_asked_it_is_decided_with_the_answer_too_late(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear("shipping", "orders.order_placed.v2")

    def cancelled_meanwhile() -> None:
        request_cancellation(order.pk)
        shop.hear("shipping", "orders.cancellation_requested.v1")
        assert shop.shipment(order).state == Shipment.State.DISPATCHING
        assert "shipping.shipment_cancelled.v1" not in shop.announced(order)

    carrier.meanwhile["book"] = cancelled_meanwhile
    shop.hear("shipping", "payments.payment_authorized.v1")
    assert shop.announced(order)[-2:] == ["shipping.shipment_dispatched.v1", "shipping.cancellation_refused.v1"]
    assert shop.status(order) == Order.Status.CANCELLING

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_while_the_carrier_is_down_it_is_decided_when_it_is_back_in_time(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place()
    carrier.down = True
    shop.hear("payments")
    shop.hear("shipping", "orders.order_placed.v2")
    assert isinstance(shop.hear("shipping", "payments.payment_authorized.v1").outcome, RetryLater)

    request_cancellation(order.pk)
    shop.hear("shipping", "orders.cancellation_requested.v1")
    shop.pass_time(3600)
    assert shop.status(order) == Order.Status.CANCELLING, "undecided while the carrier may have the parcel"

    carrier.down = False
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert "shipping.shipment_cancelled.v1" in shop.announced(order)
    assert shop.parcels(order.pk) == []
    assert_invariants(shop, [order])


def test_while_an_address_cannot_be_booked_it_is_granted_by_the_next_attempt(shop: Shop) -> None:
    order = shop.place(street="Unreachable Road 1")
    shop.drain()
    assert shop.shipment(order).state == Shipment.State.DISPATCHING

    request_cancellation(order.pk)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.payment(order).voided == order.total
    assert_invariants(shop, [order])


def test_when_the_carriers_answer_was_lost_the_booked_parcel_is_found_and_goes_on(
    shop: Shop, carrier: type[Carrier]
) -> None:
    order = shop.place()
    carrier.loses_answers = 1
    shop.drain()
    request_cancellation(order.pk)

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert "shipping.cancellation_refused.v1" in shop.announced(order)
    assert len(shop.sent(order.pk)) == 1
    assert_invariants(shop, [order])


def test_after_the_dispatch_it_is_refused_and_the_order_is_resumed_and_completed(shop: Shop) -> None:
    order = shop.place()
    shop.drain()
    assert shop.status(order) == Order.Status.DISPATCHED
    request_cancellation(order.pk)
    assert shop.status(order) == Order.Status.CANCELLING

    shop.drain()
    now = shop.order(order)
    assert (now.status, now.reason, now.cancel_requested_at) == (Order.Status.DISPATCHED, "", None)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert shop.announced(order)[4:] == [
        "orders.cancellation_requested.v1",
        "shipping.cancellation_refused.v1",
        "shipping.shipment_delivered.v1",
        "orders.order_completed.v1",
    ]
    assert_invariants(shop, [order])


def test_after_a_refusal_it_can_be_asked_for_again(shop: Shop) -> None:
    order = shop.place(street="Lost Lane 1")
    shop.drain()
    for _ in range(2):
        request_cancellation(order.pk)
        shop.drain()
        assert shop.status(order) == Order.Status.DISPATCHED
    shop.settle_at_once()
    assert shop.status(order) == Order.Status.CANCELLED
    assert_invariants(shop, [order])


def test_a_parcel_lost_while_the_cancellation_is_decided_cancels_the_order(shop: Shop) -> None:
    order = shop.place(street="Lost Lane 1")
    shop.drain()
    shop.time.advance(5)
    request_cancellation(order.pk)
    shop.tick("shipping.track_parcels")

    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "lost")
    assert shop.charged(order.pk) == 0
    assert_invariants(shop, [order])


def test_an_undeliverable_address_answers_a_cancellation_as_well(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place(street="Undeliverable Street 1")
    shop.hear("payments")
    shop.hear("shipping", "orders.order_placed.v2")

    def cancelled_meanwhile() -> None:
        request_cancellation(order.pk)
        shop.hear("shipping", "orders.cancellation_requested.v1")

    carrier.meanwhile["book"] = cancelled_meanwhile
    shop.hear("shipping", "payments.payment_authorized.v1")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert_invariants(shop, [order])


def test_a_card_declined_while_it_is_decided_cancels_the_order_once(shop: Shop) -> None:
    order = shop.place("tok_declined_funds")
    shop.hear("payments")
    request_cancellation(order.pk)

    shop.settle_at_once()

    assert shop.announced(order).count("orders.order_cancelled.v1") == 1
    assert_invariants(shop, [order])


def test_a_second_cancellation_waits_for_the_first(shop: Shop) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    with pytest.raises(CancellationPending, match=order.number):
        request_cancellation(order.pk)
    shop.settle_at_once()
    assert shop.announced(order).count("orders.cancellation_requested.v1") == 1
    assert_invariants(shop, [order])


@pytest.mark.parametrize(
    ("token", "end"), [("tok_approved", Order.Status.COMPLETED), ("tok_declined_funds", Order.Status.CANCELLED)]
)
def test_a_finished_order_is_not_cancelled_any_more(shop: Shop, token: str, end: str) -> None:
    order = shop.place(token)
    shop.settle_at_once()
    before = shop.announced(order)

    with pytest.raises(OrderFinished, match=order.number):
        request_cancellation(order.pk)

    shop.settle_at_once()
    assert shop.status(order) == end
    assert shop.announced(order) == before
    assert_invariants(shop, [order])


def test_shipping_remembers_a_cancellation_of_an_order_it_has_not_heard_of(shop: Shop) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    shop.hear("shipping", "orders.cancellation_requested.v1")
    assert shop.shipment(order).state == Shipment.State.CANCELLED
    shop.hear("payments", "orders.order_placed.v2")
    assert isinstance(shop.hear("shipping", "payments.payment_authorized.v1").outcome, Done)

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.parcels(order.pk) == []
    assert shop.payment(order).voided == order.total
    assert_invariants(shop, [order])
