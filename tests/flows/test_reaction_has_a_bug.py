"""A reaction fails for a reason no retry mends: it is parked, the next is handled, and a person sends it again."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from choreography.dead_letters.actions import send_again
from choreography.inbox.deliveries import Done, Duplicate, Parked, RetryLater
from choreography.storage.models import DeadLetter
from choreography.testing import Step, override
from orders.models import Order
from payments.models import Payment
from tests.shop_in_a_box import Shop, assert_invariants, needs_a_person

CAPTURE = "payments.capture_payment"


@pytest.fixture
def bug() -> Iterator[ExitStack]:
    """Capturing fails after it has changed the database. ``bug.close()`` mends it."""

    def capture_payment(payment: Payment, event: Any, answer: Any) -> None:
        Payment.objects.filter(pk=event.subject).update(capture_refused="by mistake")
        raise ZeroDivisionError("division by zero")

    with ExitStack() as changes:
        changes.enter_context(override(CAPTURE, function=capture_payment))
        yield changes


def heard_by_payments(shop: Shop, event_type: str) -> list[Step]:
    return [step for step in shop.steps if step.service == "payments" and event_type.encode() in step.message.body]


def test_it_is_parked_after_three_attempts_and_changes_nothing(shop: Shop, bug: object) -> None:
    order = shop.place()
    shop.settle_at_once()

    outcomes = [step.outcome for step in heard_by_payments(shop, "shipping.shipment_dispatched.v1")]
    assert [type(outcome) for outcome in outcomes] == [RetryLater, RetryLater, Parked]
    [dead_letter] = shop.dead_letters()
    assert (dead_letter.reaction, dead_letter.subject) == (CAPTURE, str(order.pk))
    assert (dead_letter.error, dead_letter.attempts) == ("ZeroDivisionError", 3)
    assert "capture_payment" in dead_letter.traceback
    assert json.loads(bytes(dead_letter.body))["type"] == "shipping.shipment_dispatched.v1"
    assert shop.payment(order).capture_refused == ""
    assert needs_a_person(shop, order)


def test_the_next_message_is_handled_meanwhile(shop: Shop, bug: object) -> None:
    order, other = shop.place(), shop.place("tok_declined_funds")
    shop.settle_at_once()
    assert shop.order(order).status == Order.Status.DISPATCHED
    assert shop.status(other) == Order.Status.CANCELLED


def test_sent_again_after_the_repair_it_takes_effect_and_the_dead_letter_is_resolved(
    shop: Shop, bug: ExitStack
) -> None:
    order = shop.place()
    shop.settle_at_once()
    bug.close()
    [dead_letter] = shop.dead_letters()

    send_again(dead_letter, shop)
    [dead_letter] = shop.dead_letters()
    assert dead_letter.state == DeadLetter.State.RETRYING
    shop.settle_at_once()

    [dead_letter] = shop.dead_letters()
    assert dead_letter.state == DeadLetter.State.RESOLVED
    assert dead_letter.resolved_at is not None
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


def test_sent_again_too_early_it_is_parked_again_as_the_same_dead_letter(shop: Shop, bug: object) -> None:
    shop.place()
    shop.settle_at_once()
    [dead_letter] = shop.dead_letters()
    handled = len(shop.steps)

    send_again(dead_letter, shop)
    shop.settle_at_once()

    # Its attempts count from the start.
    assert [type(step.outcome) for step in shop.steps[handled:]] == [RetryLater, RetryLater, Parked]
    [same] = shop.dead_letters()
    assert (same.pk, same.state, same.attempts) == (dead_letter.pk, DeadLetter.State.PARKED, 3)


def test_a_dead_letter_whose_event_took_effect_meanwhile_is_resolved_as_a_duplicate(shop: Shop, bug: ExitStack) -> None:
    order = shop.place()
    shop.settle_at_once()
    bug.close()
    [dead_letter] = shop.dead_letters()
    shop.send("payments", bytes(dead_letter.body))
    shop.settle_at_once()
    assert isinstance(heard_by_payments(shop, "shipping.shipment_dispatched.v1")[-1].outcome, Done)
    assert shop.status(order) == Order.Status.COMPLETED

    send_again(dead_letter, shop)
    shop.settle_at_once()

    assert isinstance(shop.steps[-1].outcome, Duplicate)
    [dead_letter] = shop.dead_letters()
    assert dead_letter.state == DeadLetter.State.RESOLVED
    assert_invariants(shop, [order])


def test_a_message_the_broker_gave_up_is_parked_and_can_be_sent_again(shop: Shop) -> None:
    """A worker died at it more often than the queue's delivery limit."""
    order = shop.place()
    shop.relay("orders")
    while message := shop.take("payments"):
        shop.broker.reject(message.tag, requeue=False)
        break
    step = shop.handle_next("payments")

    assert step is not None
    assert step.message.queue == "payments.dead"
    assert isinstance(step.outcome, Parked)
    [dead_letter] = shop.dead_letters("payments")
    assert dead_letter.message == "the broker gave it up: rejected"
    assert dead_letter.subject == str(order.pk)

    send_again(dead_letter, shop)
    shop.settle_at_once()

    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])
