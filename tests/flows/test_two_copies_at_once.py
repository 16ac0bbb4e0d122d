"""Two workers get a copy of one message at the same time, and the order is cancelled in between."""

from collections.abc import Callable
from typing import Any

import pytest

from choreography.inbox.deliveries import Done, Duplicate, RetryLater
from choreography.storage.claims import LEASE
from choreography.testing import FrozenClock, Step
from orders.models import Order
from orders.services import request_cancellation
from tests.flows import providers
from tests.shop_in_a_box import Shop, assert_invariants


def test_a_payment_that_one_of_them_is_about_to_ask_for_is_not_forgotten(
    shop: Shop, gateway: type[providers.Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    shop.hear_all("shipping")
    shop.hear_all("orders")
    shop.relay("orders")
    placed, cancelled = shop.take("payments"), shop.take("payments")
    assert placed is not None
    assert cancelled is not None
    steps: list[Step] = []

    def meanwhile_in_another_worker() -> None:
        shop.put("payments", placed)
        copy = shop.take("payments")
        assert copy is not None
        steps.extend([shop.handle("payments", cancelled), shop.handle("payments", copy)])

    before_the_call(monkeypatch, providers.Gateway, "authorize", meanwhile_in_another_worker)
    steps.append(shop.handle("payments", placed))
    shop.settle_at_once()

    assert [type(step.outcome) for step in steps] == [Done, RetryLater, Done]
    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.held(order.pk) == 0
    assert_invariants(shop, [order])


def test_a_hold_of_one_that_was_stopped_for_longer_than_its_claim_was_kept_is_let_go_of(
    shop: Shop, gateway: type[providers.Gateway], frozen: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = shop.place()
    request_cancellation(order.pk)
    shop.hear_all("shipping")
    shop.hear_all("orders")
    shop.relay("orders")
    placed, cancelled = shop.take("payments"), shop.take("payments")
    assert placed is not None
    assert cancelled is not None
    outcomes: list[type[object]] = []

    def meanwhile_in_another_worker() -> None:
        shop.put("payments", placed)
        copy = shop.take("payments")
        assert copy is not None
        frozen.advance(2 * LEASE.total_seconds())
        outcomes.extend(type(shop.handle("payments", each).outcome) for each in (cancelled, copy))

    before_the_call(monkeypatch, providers.Gateway, "authorize", meanwhile_in_another_worker)
    outcomes.append(type(shop.handle("payments", placed).outcome))
    shop.settle_at_once()

    assert outcomes == [Done, Done, Duplicate]
    assert shop.status(order) == Order.Status.CANCELLED
    assert shop.held(order.pk) == 0


def test_a_parcel_that_one_of_them_is_about_to_book_is_not_forgotten(
    shop: Shop, carrier: type[providers.Carrier], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = shop.place()
    shop.hear("payments")
    shop.hear("shipping", "orders.order_placed.v2")
    paid = shop.take("shipping")
    assert paid is not None
    outcomes: list[type[object]] = []

    def meanwhile_in_another_worker() -> None:
        request_cancellation(order.pk)
        shop.hear("shipping", "orders.cancellation_requested.v1")
        shop.put("shipping", paid)
        copy = shop.take("shipping")
        assert copy is not None
        outcomes.append(type(shop.handle("shipping", copy).outcome))

    before_the_call(monkeypatch, providers.Carrier, "book", meanwhile_in_another_worker)
    outcomes.append(type(shop.handle("shipping", paid).outcome))
    shop.settle_at_once()

    assert outcomes == [RetryLater, Done]
    assert Duplicate in {type(step.outcome) for step in shop.steps}
    assert shop.status(order) == Order.Status.COMPLETED, "the parcel was on its way before the cancellation was decided"
    assert_invariants(shop, [order])


def before_the_call(
    monkeypatch: pytest.MonkeyPatch, provider: type[Any], call: str, meanwhile: Callable[[], None]
) -> None:
    """Have something happen, once, when the provider is about to be called but has not been reached yet."""
    original = getattr(provider, call)

    def late(self: Any, **arguments: Any) -> Any:
        monkeypatch.setattr(provider, call, original)
        meanwhile()
        return original(self, **arguments)

    monkeypatch.setattr(provider, call, late)
