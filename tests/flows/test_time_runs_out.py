"""Time acts: a hold that has grown too old expires, and an order nobody paid for is cancelled."""

from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from choreography.outbox.announcing import transaction_of
from orders.models import Order
from payments.models import Payment
from payments.services import ask_to_let_go, record_expiry
from shipping.models import Shipment
from tests.flows.providers import Carrier, Gateway
from tests.shop_in_a_box import Shop, assert_invariants, needs_a_person

EXPIRE, CANCEL_UNPAID = "payments.expire_authorizations", "orders.cancel_unpaid_orders"
DAY, WEEK = timedelta(days=1).total_seconds(), timedelta(days=7).total_seconds()


def test_an_authorization_expires_and_the_order_is_cancelled(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.time.advance(WEEK + 1)
    shop.tick(EXPIRE)
    assert shop.held(order.pk) == 0
    shop.hear("orders", "payments.authorization_expired.v1")
    shop.hear("shipping", "orders.order_placed.v2")
    shop.hear("shipping", "orders.cancellation_requested.v1")

    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "authorization_expired")
    assert shop.announced(order).count("payments.authorization_expired.v1") == 1
    assert_invariants(shop, [order])


def test_an_authorization_that_is_young_stays(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.time.advance(WEEK)
    shop.tick(EXPIRE)
    assert shop.held(order.pk) == order.total


def test_an_expiry_is_entered_once_however_many_ticks_see_it(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.time.advance(WEEK + 1)
    seen = shop.payment(order)
    shop.tick(EXPIRE)
    with transaction_of("payments"), Payment.objects.locked([order.pk]) as [payment]:
        record_expiry(payment, ask_to_let_go(seen))
    assert shop.announced(order).count("payments.authorization_expired.v1") == 1
    shop.hear("orders", "payments.authorization_expired.v1")
    shop.hear("shipping", "orders.cancellation_requested.v1")
    shop.settle_at_once()
    assert_invariants(shop, [order])


def test_an_authorization_that_expires_while_the_carrier_is_down_cancels_the_order(
    shop: Shop, carrier: type[Carrier], settings: Settings
) -> None:
    settings.AUTHORIZATION_LIFETIME_SECONDS = 3600
    order = shop.place()
    carrier.down = True
    shop.pass_time(3601)
    assert shop.shipment(order).state == Shipment.State.DISPATCHING
    shop.tick(EXPIRE)
    shop.drain()
    assert shop.status(order) == Order.Status.CANCELLING
    carrier.down = False

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.parcels(order.pk) == []
    assert_invariants(shop, [order])


def test_an_authorization_that_expires_too_late_to_stop_the_parcel_leaves_the_order_to_a_person(shop: Shop) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("shipping")
    shop.time.advance(WEEK + 1)
    shop.tick(EXPIRE)

    shop.settle_at_once()

    assert shop.order(order).attention == "capture_failed: already_voided"
    assert "shipping.cancellation_refused.v1" in shop.announced(order)
    assert needs_a_person(shop, order)
    assert_invariants(shop, [order])


def test_a_hold_that_a_capture_uses_at_the_same_moment_does_not_expire(shop: Shop, gateway: type[Gateway]) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("shipping")
    shop.time.advance(WEEK + 1)
    gateway.meanwhile["capture"] = lambda: shop.tick(EXPIRE)

    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert "payments.authorization_expired.v1" not in shop.announced(order)
    assert_invariants(shop, [order])


def test_a_capture_at_the_moment_of_expiry_is_refused(shop: Shop, gateway: type[Gateway]) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("shipping")
    shop.time.advance(WEEK + 1)
    gateway.meanwhile["void"] = lambda: shop.hear_all("payments")
    shop.tick(EXPIRE)

    shop.settle_at_once()

    assert shop.order(order).attention == "capture_failed: already_voided"
    assert_invariants(shop, [order])


def test_a_capture_enters_an_expiry_whose_tick_died(shop: Shop) -> None:
    """Nobody has to wait for the next tick: beat may be down for long."""
    order = shop.place()
    shop.hear("payments")
    shop.hear_all("shipping")
    shop.time.advance(WEEK + 1)
    ask_to_let_go(shop.payment(order))

    shop.settle_at_once()

    assert shop.order(order).attention == "capture_failed: already_voided"
    assert not shop.dead_letters()
    assert_invariants(shop, [order])


def test_the_provider_being_down_postpones_an_expiry(shop: Shop, gateway: type[Gateway]) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.time.advance(WEEK + 1)
    gateway.down = True
    shop.tick(EXPIRE)
    assert shop.held(order.pk) == order.total
    gateway.down = False
    shop.tick(EXPIRE)
    assert shop.held(order.pk) == 0


@pytest.mark.parametrize("token", ["tok_down", "tok_approved"])
def test_an_order_nobody_paid_for_is_cancelled(shop: Shop, token: str) -> None:
    order = shop.place(token)
    shop.time.advance(DAY + 1)
    shop.tick(CANCEL_UNPAID)
    assert shop.status(order) == Order.Status.CANCELLING

    shop.hear("shipping", "orders.cancellation_requested.v1")
    shop.settle_at_once()

    now = shop.order(order)
    assert (now.status, now.reason) == (Order.Status.CANCELLED, "not_paid_in_time")
    assert_invariants(shop, [order])


def test_an_order_is_asked_to_be_cancelled_once_however_often_the_timer_ticks(shop: Shop) -> None:
    order = shop.place("tok_down")
    shop.time.advance(DAY + 1)
    shop.tick(CANCEL_UNPAID)
    shop.tick(CANCEL_UNPAID)
    shop.settle_at_once()
    assert shop.announced(order).count("orders.cancellation_requested.v1") == 1
    assert_invariants(shop, [order])


def test_an_order_that_is_paid_for_or_young_is_left_alone(shop: Shop) -> None:
    paid = shop.place()
    shop.hear("payments")
    shop.hear_all("orders")
    shop.time.advance(DAY)
    young = shop.place("tok_down")
    shop.time.advance(1)
    shop.tick(CANCEL_UNPAID)
    assert [shop.status(order) for order in (paid, young)] == [Order.Status.AUTHORIZED, Order.Status.PLACED]


def test_one_parcel_the_carrier_does_not_know_keeps_no_other_from_being_tracked(shop: Shop) -> None:
    unknown, known = shop.place(), shop.place()
    shop.drain()
    Shipment.objects.filter(pk=unknown.pk).update(parcel="parcel_nobody_knows")
    shop.time.advance(5)

    with pytest.raises(ExceptionGroup) as failed:
        shop.tick("shipping.track_parcels")

    assert "UnknownParcel" in repr(failed.value.exceptions)
    shop.drain()
    assert shop.status(known) == Order.Status.COMPLETED
    assert shop.status(unknown) == Order.Status.DISPATCHED
