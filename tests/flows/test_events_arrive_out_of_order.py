"""Events arrive in any order: they end in the same state, or wait for what they need."""

from collections.abc import Iterator

import pytest
from django.db import transaction

from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.inbox.deliveries import Done, Duplicate, Parked, RetryLater
from orders.models import Order
from orders.services import request_cancellation
from shipping.models import Shipment
from tests.shop_in_a_box import Shop, assert_invariants, needs_a_person

FACTS = (
    "status",
    "authorized_at",
    "captured_at",
    "released_at",
    "released",
    "dispatched_at",
    "parcel",
    "delivered_at",
    "cancelled_at",
    "cancel_requested_at",
    "reason",
    "attention",
)


def hear_everything_but_orders(shop: Shop, order: Order) -> list[Stored]:
    """The other services settle while orders hears nothing. Returns what waits for orders."""
    for _ in range(4):
        for service in ("payments", "shipping"):
            shop.hear_all(service)
        shop.time.advance(5)
        shop.tick("shipping.track_parcels")
    messages = []
    while message := shop.take("orders"):
        messages.append(message)
        shop.broker.ack(message.tag)
    return messages


def ends(shop: Shop, order: Order, waiting: list[Stored]) -> Iterator[dict[str, object]]:
    """What orders knows in the end, for every order in which it can hear these. Changes nothing."""
    if not waiting:
        state = Order.objects.filter(pk=order.pk).values(*FACTS).get()
        yield state | {"announced": [event for event in shop.announced(order) if event.startswith("orders.")]}
    for message in waiting:
        with transaction.atomic(using="orders"):
            shop.put("orders", message)
            step = shop.handle_next("orders")
            assert step is not None
            assert isinstance(step.outcome, Done)
            yield from ends(shop, order, [other for other in waiting if other is not message])
            transaction.set_rollback(True, using="orders")


@pytest.mark.parametrize(
    ("token", "street", "heard", "status"),
    [
        ("tok_approved", "Main Street 1", 4, Order.Status.COMPLETED),
        ("tok_approved", "Lost Lane 1", 4, Order.Status.CANCELLED),
        ("tok_capture_refused", "Main Street 1", 4, Order.Status.DISPATCHED),
        ("tok_capture_refused", "Lost Lane 1", 4, Order.Status.CANCELLED),
        ("tok_approved", "Undeliverable Street 1", 2, Order.Status.CANCELLED),
    ],
)
def test_orders_comes_to_the_same_end_in_whatever_order_it_hears(
    shop: Shop, token: str, street: str, heard: int, status: str
) -> None:
    order = shop.place(token, street)
    messages = hear_everything_but_orders(shop, order)
    assert len(messages) == heard

    first, *others = ends(shop, order, messages)

    assert first["status"] == status
    assert [other for other in others if other != first] == []


def test_orders_comes_to_the_same_end_when_a_cancellation_was_refused_as_well(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("shipping")
    request_cancellation(order.pk)
    messages = hear_everything_but_orders(shop, order)
    assert len(messages) == 5

    first, *others = ends(shop, order, messages)

    assert first["status"] == Order.Status.COMPLETED
    assert len(others) == 119
    assert [other for other in others if other != first] == []


def test_shipping_waits_for_the_order_it_is_to_send(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    step = shop.hear("shipping", "payments.payment_authorized.v1")
    assert isinstance(step.outcome, RetryLater)
    assert not Shipment.objects.exists(), "the wait changed nothing"

    shop.hear("shipping", "orders.order_placed.v2")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_what_waited_for_an_event_is_tried_as_soon_as_it_has_come(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear("shipping", "payments.payment_authorized.v1")

    shop.hear("shipping", "orders.order_placed.v2")

    assert Shipment.objects.get().state == Shipment.State.DISPATCHED, "no time has passed"
    assert shop.waiting() == 1, "the copy on the ladder"
    shop.settle_at_once()
    assert [step.outcome for step in shop.steps if step.service == "shipping"][-1] == Duplicate()
    assert_invariants(shop, [order])


def test_a_process_that_has_forgotten_what_waits_loses_nothing(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear("shipping", "payments.payment_authorized.v1")
    shop.memory.forget()

    shop.hear("shipping", "orders.order_placed.v2")

    assert Shipment.objects.get().state == Shipment.State.PLANNED
    shop.settle_at_once()
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_shipping_gives_up_waiting_after_a_while_and_goes_on_when_sent_again(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    placed = shop.broker.get([topology.queue_name("shipping")], "late")
    assert placed is not None
    shop.broker.ack(placed.tag)

    shop.pass_time(1800)
    [dead_letter] = shop.dead_letters("shipping")
    assert (dead_letter.error, dead_letter.reaction) == ("NotYet", "shipping.dispatch_shipment")
    assert isinstance(shop.outcomes()[-1], Parked)
    assert needs_a_person(shop, order)

    shop.put("shipping", placed)
    shop.drain()
    shop.send(
        "shipping", bytes(dead_letter.body), dead_letter.content_type, {"x-choreography-dead-letter": dead_letter.key}
    )
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


@pytest.mark.parametrize("first", ["orders.order_placed.v2", "payments.payment_authorized.v1"])
def test_shipping_does_not_give_up_waiting_because_of_an_outage_before(shop: Shop, first: str) -> None:
    """Its database was down for an hour; then the two deliveries come back, in either order."""
    order = shop.place()
    shop.hear("payments")
    with shop.database_down("shipping"):
        shop.pass_time(3600)
        assert shop.waiting() == 2

    shop.time.advance(300)
    shop.hear("shipping", first)
    shop.settle_at_once()

    assert shop.dead_letters() == []
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_payments_never_authorizes_an_order_whose_end_it_has_heard_before(shop: Shop) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    shop.hear_all("shipping")
    shop.hear_all("orders")
    assert isinstance(shop.hear("payments", "orders.order_cancelled.v1").outcome, Done)
    assert isinstance(shop.hear("payments", "orders.order_placed.v2").outcome, Done)

    shop.settle_at_once()

    assert shop.booked(order.pk) == []
    assert_invariants(shop, [order])


def test_shipping_hears_that_an_order_ended_before_it_hears_of_the_order(shop: Shop) -> None:
    order = shop.place("tok_declined_funds")
    shop.hear("payments")
    shop.hear_all("orders")
    shop.hear("shipping", "orders.order_cancelled.v1")

    shop.settle_at_once()

    assert shop.shipment(order).state == Shipment.State.CANCELLED
    assert_invariants(shop, [order])


def test_an_order_that_has_ended_is_not_cancelled_by_a_request_that_was_on_its_way(shop: Shop) -> None:
    order = shop.place()
    shop.drain()
    shop.time.advance(5)
    request_cancellation(order.pk)
    shop.tick("shipping.track_parcels")
    for service in shop.services:
        shop.relay(service)
    shop.hear("orders", "shipping.shipment_delivered.v1")
    assert shop.status(order) == Order.Status.COMPLETED

    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason, now.cancel_requested_at) == (Order.Status.COMPLETED, "", None)
    assert_invariants(shop, [order])
