"""Shipping's decisions: what it sends, what it calls off, and when it has to wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from choreography.core import clock
from choreography.core.errors import NotYet
from choreography.outbox.announcing import transaction_of
from choreography.testing import FrozenClock
from shipping import services
from shipping.carrier import Address, Booked, CarrierDown, Tracking, Undeliverable
from shipping.models import Outbox, Shipment

pytestmark = pytest.mark.django_db(databases="__all__")

ORDER = UUID(int=1)
HERE = Address("Ada", "Main Street 1", "Bonn", "53111", "DE")
PARCEL = Booked("parcel_1")
State = Shipment.State


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenClock]:
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        yield frozen


def shipment() -> Shipment:
    return Shipment.objects.get(pk=ORDER)


def announced() -> list[str]:
    return [row.event_type.split(".")[1] for row in Outbox.objects.order_by("position")]


@contextmanager
def holding() -> Iterator[Shipment]:
    with transaction_of("shipping"), Shipment.objects.locked([ORDER]) as [shipment]:
        yield shipment


def ask_to_book() -> Booked | Undeliverable | None:
    """As ``dispatch_shipment`` does: the state is committed before the carrier is called."""
    with holding() as shipment:
        services.prepare_to_book(shipment)
    return services.ask_to_book(shipment)


def plan(address: Address = HERE) -> None:
    with holding() as shipment:
        services.plan_shipment(shipment, address)


def dispatch(answer: Booked | Undeliverable | None = PARCEL) -> None:
    """The carrier is asked, and answers this."""
    Shipment.objects.filter(pk=ORDER, state=State.PLANNED).update(state=State.DISPATCHING)
    with holding() as shipment:
        services.record_dispatch(shipment, answer)


def cancel(reason: str = "customer_request") -> None:
    with holding() as shipment:
        services.cancel_shipment(shipment, reason)


def close() -> None:
    with holding() as shipment:
        services.close_shipment(shipment, "expired_card")


def track(tracking: Tracking) -> None:
    with holding() as shipment:
        services.record_tracking(shipment, tracking)


def test_a_planned_shipment_knows_where_it_goes() -> None:
    plan()
    assert (shipment().state, shipment().address) == (State.PLANNED, HERE)
    assert announced() == []


def test_an_order_heard_of_twice_is_planned_as_the_first_time() -> None:
    plan()
    plan(Address(**asdict(HERE) | {"street": "Elsewhere 2"}))
    assert shipment().address == HERE


def test_the_carrier_is_not_asked_before_shipping_has_heard_of_the_order() -> None:
    with pytest.raises(NotYet, match=str(ORDER)):
        ask_to_book()
    assert not Shipment.objects.exists()


def test_while_the_carrier_is_asked_the_shipment_is_dispatching() -> None:
    plan(Address(**asdict(HERE) | {"street": "Unreachable Road 1"}))
    with pytest.raises(CarrierDown):
        ask_to_book()
    assert shipment().state == State.DISPATCHING


def test_asking_twice_books_once() -> None:
    plan()
    first = ask_to_book()
    assert isinstance(first, Booked)
    assert ask_to_book() == first


def test_a_booked_parcel_is_dispatched_and_announced() -> None:
    plan()
    dispatch()
    now = shipment()
    assert (now.state, now.parcel, now.dispatched_at) == (State.DISPATCHED, "parcel_1", clock.now())
    assert announced() == ["shipment_dispatched"]


def test_an_undeliverable_parcel_fails() -> None:
    plan()
    dispatch(Undeliverable("no_such_address"))
    assert (shipment().state, shipment().reason, shipment().ended_at) == (State.FAILED, "no_such_address", clock.now())
    assert announced() == ["shipment_failed"]


@pytest.mark.parametrize(("reason", "kept"), [("x" * 150, "x" * 100), ("", "unknown")])
def test_a_parcel_fails_whatever_the_reason(reason: str, kept: str) -> None:
    plan()
    dispatch(Undeliverable(reason))
    assert (shipment().state, shipment().reason) == (State.FAILED, kept)
    assert announced() == ["shipment_failed"]


@pytest.mark.parametrize("heard_of_the_order", [True, False])
def test_a_cancellation_is_granted_while_nothing_was_sent(heard_of_the_order: bool) -> None:
    if heard_of_the_order:
        plan()
    cancel()
    assert (shipment().state, shipment().reason) == (State.CANCELLED, "customer_request")
    assert announced() == ["shipment_cancelled"]


def test_what_was_cancelled_before_it_was_heard_of_is_never_planned_nor_sent() -> None:
    cancel()
    plan()
    assert ask_to_book() is None
    dispatch(None)
    assert shipment().state == State.CANCELLED
    assert announced() == ["shipment_cancelled"]


def test_a_cancellation_while_the_carrier_is_asked_is_decided_by_its_answer() -> None:
    plan()
    Shipment.objects.update(state=State.DISPATCHING)
    cancel()
    assert announced() == []
    dispatch()
    assert announced() == ["shipment_dispatched", "cancellation_refused"]


def test_a_cancellation_while_the_carrier_could_not_be_asked_is_granted() -> None:
    plan()
    Shipment.objects.update(state=State.DISPATCHING)
    cancel("changed_mind")
    assert ask_to_book() is None
    dispatch(None)
    assert (shipment().state, shipment().reason) == (State.CANCELLED, "changed_mind")
    assert announced() == ["shipment_cancelled"]


def test_a_parcel_that_was_booked_all_the_same_is_not_called_off() -> None:
    plan()
    booked = ask_to_book()
    cancel()
    assert ask_to_book() == booked


@pytest.mark.parametrize("end", [None, Tracking.DELIVERED, Tracking.LOST])
def test_a_cancellation_after_the_dispatch_is_refused(end: Tracking | None) -> None:
    plan()
    dispatch()
    if end:
        track(end)
    before = shipment().state
    cancel()
    assert shipment().state == before
    assert announced()[-1] == "cancellation_refused"


def test_a_cancellation_asked_for_again_is_granted_again() -> None:
    cancel()
    cancel()
    assert announced() == ["shipment_cancelled", "shipment_cancelled"]


def test_an_order_that_has_ended_is_not_sent_any_more() -> None:
    plan()
    close()
    assert (shipment().state, shipment().reason) == (State.CANCELLED, "expired_card")
    assert announced() == []


def test_what_was_sent_is_not_closed() -> None:
    plan()
    dispatch()
    close()
    assert shipment().state == State.DISPATCHED


@pytest.mark.parametrize(
    ("tracking", "state", "event"),
    [
        (Tracking.DELIVERED, State.DELIVERED, "shipment_delivered"),
        (Tracking.LOST, State.FAILED, "shipment_failed"),
        (Tracking.CANCELLED, State.FAILED, "shipment_failed"),
        (Tracking.IN_TRANSIT, State.DISPATCHED, "shipment_dispatched"),
    ],
)
def test_what_the_carrier_says_is_entered(tracking: Tracking, state: str, event: str) -> None:
    plan()
    dispatch()
    track(tracking)
    assert shipment().state == state
    assert announced()[-1] == event


def test_only_the_first_end_counts() -> None:
    plan()
    dispatch()
    track(Tracking.DELIVERED)
    track(Tracking.LOST)
    assert shipment().state == State.DELIVERED
    assert announced() == ["shipment_dispatched", "shipment_delivered"]


def test_parcels_are_looked_at_in_turn_new_ones_first(frozen: FrozenClock) -> None:
    for number, minutes in ((1, 5), (2, None), (3, 9)):
        frozen.advance(1)
        at = None if minutes is None else clock.now().replace(minute=minutes)
        Shipment.objects.create(order_id=UUID(int=number), state=State.DISPATCHED, parcel=f"p{number}", tracked_at=at)
    Shipment.objects.create(order_id=UUID(int=4), state=State.DELIVERED, parcel="p4")
    assert [parcel.parcel for parcel in Shipment.objects.under_way()] == ["p2", "p1", "p3"]


BROKEN: dict[str, list[dict[str, Any]]] = {
    "shipping_sent_has_parcel": [{"state": State.DISPATCHED}, {"state": State.DELIVERED}],
    "shipping_unsent_has_no_parcel": [
        {"state": state, "parcel": "p"} for state in (State.UNKNOWN, State.PLANNED, State.DISPATCHING, State.CANCELLED)
    ],
}


@pytest.mark.parametrize(("constraint", "row"), [(name, row) for name, rows in BROKEN.items() for row in rows])
def test_the_database_refuses_a_parcel_that_contradicts_the_state(constraint: str, row: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic(using="shipping"):
        Shipment.objects.create(order_id=ORDER, **row)
