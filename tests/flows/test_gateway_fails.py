"""The payment provider or the carrier fails: the order goes on when it works again, and nobody is charged twice."""

from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from choreography.broker import topology
from choreography.inbox.deliveries import Parked, RetryLater
from choreography.storage.tables import ServiceTables
from orders.models import Order
from orders.services import request_cancellation
from tests.flows.providers import Carrier, Gateway
from tests.shop_in_a_box import TRACK_PARCELS, Shop, assert_invariants, needs_a_person

HOUR = 3600.0


def kinds(shop: Shop, order: Order) -> list[str]:
    return [entry.outcome for entry in shop.booked(order.pk)]


def test_a_gateway_that_fails_twice_is_asked_a_third_time(shop: Shop) -> None:
    order = shop.place("tok_fails_twice")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert sum(isinstance(outcome, RetryLater) for outcome in shop.outcomes()) == 2
    inbox = ServiceTables("payments").inbox.get(reaction="payments.authorize_payment")
    assert inbox.attempts == 3
    assert_invariants(shop, [order])


def test_an_authorization_whose_answer_is_lost_is_found_and_made_once(shop: Shop) -> None:
    order = shop.place("tok_timeout")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert kinds(shop, order) == ["authorized", "captured"]
    assert_invariants(shop, [order])


def test_a_capture_whose_answer_is_lost_is_found_and_made_once(shop: Shop) -> None:
    order = shop.place("tok_capture_timeout")
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert kinds(shop, order) == ["authorized", "captured"]
    assert_invariants(shop, [order])


def test_a_parcel_lost_while_the_capture_is_unknown_is_refunded(shop: Shop) -> None:
    order = shop.place("tok_capture_timeout", "Lost Lane 1")
    shop.hear("payments")
    shop.hear_all("shipping")
    assert isinstance(shop.hear("payments", "shipping.shipment_dispatched.v1").outcome, RetryLater)
    shop.time.advance(5)
    shop.tick(TRACK_PARCELS)
    shop.hear_all("orders")
    assert isinstance(shop.hear("payments", "orders.order_cancelled.v1").outcome, RetryLater), (
        "it can't be voided any more"
    )

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.payment(order).refunded == order.total
    assert_invariants(shop, [order])


@pytest.mark.parametrize("since", ["the start", "the authorization"])
def test_a_gateway_that_is_down_for_an_hour_only_delays_the_order(
    shop: Shop, gateway: type[Gateway], since: str
) -> None:
    order = shop.place()
    if since == "the authorization":
        shop.hear("payments")
    gateway.down = True

    shop.pass_time(HOUR)
    assert shop.status(order) != Order.Status.COMPLETED
    assert shop.waiting() == 1
    assert shop.dead_letters() == []

    gateway.down = False
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    attempts = ServiceTables("payments").inbox.values_list("attempts", flat=True)
    assert set(attempts) == {1}, "an outage uses up no attempt"
    assert_invariants(shop, [order])


def test_a_gateway_that_is_down_for_long_and_then_fails_parks_nothing(
    shop: Shop, gateway: type[Gateway], settings: Settings
) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_AGE": timedelta(hours=1)}
    order = shop.place("tok_fails_twice")
    gateway.down = True
    shop.pass_time(2 * HOUR)
    gateway.down = False

    shop.settle_at_once()

    assert shop.dead_letters() == [], "an outage does not make a delivery old"
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_a_gateway_that_is_down_when_money_is_to_be_given_back_only_delays_that(
    shop: Shop, gateway: type[Gateway]
) -> None:
    order = shop.place(street="Undeliverable Street 1")
    shop.hear("payments")
    gateway.down = True
    shop.pass_time(HOUR)
    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.held(order.pk) == order.total
    gateway.down = False

    shop.settle_at_once()

    assert shop.held(order.pk) == 0
    assert_invariants(shop, [order])


def test_an_unreachable_gateway_keeps_the_order_waiting_until_it_is_cancelled(shop: Shop) -> None:
    order = shop.place("tok_down")
    shop.pass_time(HOUR)
    assert shop.status(order) == Order.Status.PLACED
    assert shop.dead_letters() == []

    request_cancellation(order.pk)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.booked(order.pk) == []
    assert_invariants(shop, [order])


def test_the_waits_grow_to_half_a_minute(shop: Shop) -> None:
    shop.place("tok_down")
    shop.pass_time(HOUR)

    rungs = [step.outcome.again.routing_key for step in shop.steps if isinstance(step.outcome, RetryLater)]
    expected = [topology.retry_queue_name("payments", seconds) for seconds in (1, 5, 30, 30)]
    assert rungs[:4] == expected
    assert set(rungs[4:]) == {expected[-1]}


def test_a_gateway_that_goes_on_failing_parks_the_payment_for_a_person(shop: Shop, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_ATTEMPTS": 2}
    order = shop.place("tok_fails_twice")
    shop.settle_at_once()

    [dead_letter] = shop.dead_letters("payments")
    assert (dead_letter.error, dead_letter.attempts, dead_letter.subject) == ("GatewayError", 2, str(order.pk))
    assert isinstance(shop.outcomes()[-1], Parked)
    assert shop.status(order) == Order.Status.PLACED
    assert needs_a_person(shop, order)
    assert_invariants(shop, [order])


def test_a_refused_capture_leaves_the_order_to_a_person(shop: Shop) -> None:
    order = shop.place("tok_capture_refused")
    shop.settle_at_once()

    now = shop.order(order)
    assert now.status == Order.Status.DISPATCHED
    assert now.delivered_at is not None
    assert now.attention == "capture_failed: authorization_expired"
    assert shop.payment(order).capture_refused == "authorization_expired"
    assert shop.charged(order.pk) == 0
    assert "orders.order_completed.v1" not in shop.announced(order)
    assert_invariants(shop, [order])


def test_a_refused_capture_of_a_lost_parcel_needs_nobody(shop: Shop) -> None:
    order = shop.place("tok_capture_refused", "Lost Lane 1")
    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.attention) == (Order.Status.CANCELLED, "")
    assert shop.payment(order).voided == order.total
    assert_invariants(shop, [order])


def test_a_carrier_that_is_down_for_an_hour_only_delays_the_order(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place()
    carrier.down = True
    shop.pass_time(HOUR)
    assert shop.status(order) == Order.Status.AUTHORIZED
    assert shop.dead_letters() == []
    carrier.down = False

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_a_carrier_that_books_without_answering_books_once(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place()
    carrier.loses_answers = 3
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert shop.parcels(order.pk) == ["delivered"]
    assert_invariants(shop, [order])


def test_a_carrier_that_is_down_while_a_parcel_travels_is_asked_again(shop: Shop, carrier: type[Carrier]) -> None:
    order = shop.place()
    shop.drain()
    carrier.down = True
    shop.time.advance(60)
    shop.tick(TRACK_PARCELS)
    shop.drain()
    assert shop.status(order) == Order.Status.DISPATCHED
    carrier.down = False

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])
