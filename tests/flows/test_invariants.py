"""A checker that can't fail proves nothing: each invariant is broken once, by hand, and must be named."""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db import transaction

from choreography.simulation import Violation
from orders.models import Order
from orders.models import Outbox as OrdersOutbox
from orders.services import request_cancellation
from payments.gateway import gateway
from payments.models import Entry, Payment
from payments.models import Inbox as PaymentsInbox
from payments.models import Outbox as PaymentsOutbox
from shipping.carrier import Address, carrier
from shipping.models import Shipment
from tests.invariants import AT_ANY_MOMENT, ONCE_SETTLED, Facts, at_any_moment, once_settled
from tests.shop_in_a_box import Shop

SOMEWHERE = Address("Ada Example", "Main Street 1", "Bonn", "53111", "DE")


@pytest.fixture
def completed(shop: Shop) -> UUID:
    """An order that went well, among others that did not."""
    order = shop.place()
    shop.place(token="tok_declined_funds")
    shop.place(street="Lost Lane 1")
    request_cancellation(shop.place().pk)
    shop.settle_at_once()
    return order.pk


@pytest.fixture
def cancelled(completed: UUID) -> UUID:
    """Another, which was cancelled after the money had been held."""
    return Payment.objects.filter(voided__gt=0).latest("created_at").pk


def names(found: list[Violation]) -> set[str]:
    return {violation.invariant for violation in found}


def test_a_shop_that_has_settled_violates_nothing(completed: UUID) -> None:
    assert once_settled(Facts()) == []
    assert once_settled(Facts([completed])) == []


def _charge_again(order_id: UUID) -> None:
    answer = gateway().authorize(key=f"{order_id}:authorize:2", token="tok_approved", amount=2500, currency="EUR")
    gateway().capture(key=f"{order_id}:capture:2", reference=answer.reference, amount=2500)  # type: ignore[union-attr]


def _send_again(order_id: UUID) -> None:
    carrier().book(key=f"{order_id}:2", address=SOMEWHERE)


def _cancel(order_id: UUID) -> None:
    Order.objects.filter(pk=order_id).update(delivered_at=None, cancelled_at="2026-01-01T00:00Z")


def _leave_open(order_id: UUID) -> None:
    Order.objects.filter(pk=order_id).update(captured_at=None)


def _give_back_in_the_ledger_only(order_id: UUID) -> None:
    with transaction.atomic(using="payments"), Payment.objects.locked([order_id]) as [payment]:
        payment.enter(Entry.Kind.REFUNDED, 2500, f"{order_id}:refund")


def _forget_an_entry(order_id: UUID) -> None:
    Entry.objects.filter(payment=order_id, kind="captured").delete()


def _name_another_parcel(order_id: UUID) -> None:
    Shipment.objects.filter(pk=order_id).update(parcel="parcel_of_somebody_else")


def _never_publish(order_id: UUID) -> None:
    OrdersOutbox.objects.filter(subject=order_id).update(published_at=None)


def _never_hear(order_id: UUID) -> None:
    PaymentsInbox.objects.filter(subject=order_id, reaction="payments.capture_payment").delete()


def _roll_back_after_publishing(order_id: UUID) -> None:
    PaymentsOutbox.objects.filter(subject=order_id, event_type="payments.payment_captured.v1").delete()


def _take_effect_again(order_id: UUID) -> None:
    row = PaymentsOutbox.objects.get(subject=order_id, event_type="payments.payment_captured.v1")
    row.pk, row.event_id, row.sequence = None, uuid4(), row.sequence + 1
    row.save(force_insert=True)


def _end_silently(order_id: UUID) -> None:
    OrdersOutbox.objects.filter(subject=order_id, event_type="orders.order_completed.v1").delete()


@pytest.mark.parametrize(
    ("invariant", "break_it"),
    [
        ("nobody_is_charged_twice", _charge_again),
        ("nothing_is_sent_twice", _send_again),
        ("never_cancelled_and_shipped", _cancel),
        ("every_order_ends", _leave_open),
        ("completed_is_paid_and_delivered", _give_back_in_the_ledger_only),
        ("ledger_agrees_with_the_gateway", _forget_an_entry),
        ("shipment_agrees_with_the_carrier", _name_another_parcel),
        ("every_event_is_published", _never_publish),
        ("every_event_is_heard", _never_hear),
        ("only_committed_events_are_heard", _roll_back_after_publishing),
        ("each_effect_happens_once", _take_effect_again),
        ("every_end_is_announced", _end_silently),
    ],
)
def test_a_broken_invariant_is_named(completed: UUID, invariant: str, break_it: Callable[[UUID], None]) -> None:
    break_it(completed)
    found = at_any_moment(Facts()) if invariant in AT_ANY_MOMENT else once_settled(Facts())
    assert invariant in names(found)
    assert completed in {violation.about for violation in found if violation.invariant == invariant}


def test_money_held_for_a_cancelled_order_is_found(cancelled: UUID) -> None:
    Payment.objects.filter(pk=cancelled).update(voided=0)
    assert "cancelled_leaves_nothing" in names(once_settled(Facts()))


def test_every_invariant_is_broken_here() -> None:
    marks = test_a_broken_invariant_is_named.pytestmark  # type: ignore[attr-defined]
    broken = {case[0] for mark in marks if mark.name == "parametrize" for case in mark.args[1]}
    assert broken | {"cancelled_leaves_nothing"} == {*AT_ANY_MOMENT, *ONCE_SETTLED}
