"""Announcing: only in the transaction that makes it true, only one's own facts, only what was declared."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from choreography import world
from choreography.contracts import Event, Nothing
from choreography.errors import ContractError
from choreography.models import alias_of, transaction_of
from choreography.outbox import announce, caused_by
from choreography.registry import Reaction, reaction_to
from choreography.testing import FrozenWorld
from payments.events import CaptureFailed, PaymentCaptured, PaymentDeclined
from payments.models import Outbox
from shipping.events import ShipmentDelivered

ORDER, ANOTHER = UUID(int=1), UUID(int=2)
DECLINED = PaymentDeclined(reason="expired_card")

everywhere = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def frozen() -> Iterator[FrozenWorld]:
    frozen = FrozenWorld()
    with world.replaced(frozen):
        yield frozen


def reaction(service: str, event_type: str) -> Reaction:
    found = reaction_to(service, event_type)
    assert found is not None
    return found


def event(**changes: Any) -> Event[Nothing]:
    fields: dict[str, Any] = {
        "id": world.new_id(),
        "type": "shipping.shipment_dispatched.v1",
        "source": "shipping",
        "subject": ORDER,
        "time": world.now(),
        "correlationid": "flow",
        "data": Nothing(),
    }
    return Event[Nothing](**fields | changes)


@everywhere
def test_an_announced_fact_waits_in_the_outbox_as_it_goes_out() -> None:
    with transaction_of("payments"):
        announced = announce(DECLINED, subject=ORDER)

    row = Outbox.objects.get()
    assert (row.event_id, row.event_type, row.subject) == (announced.id, "payments.payment_declined.v1", ORDER)
    assert (row.sequence, row.caused_by, row.published_at) == (1, None, None)
    assert json.loads(row.body) == {
        "specversion": "1.0",
        "id": str(announced.id),
        "type": "payments.payment_declined.v1",
        "source": "payments",
        "subject": str(ORDER),
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "correlationid": str(ORDER),
        "sequence": 1,
        "traceparent": announced.traceparent,
        "data": {"reason": "expired_card"},
    }


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_outside_a_transaction_nothing_is_announced() -> None:
    with pytest.raises(ContractError, match=r"inside transaction.atomic\(using='payments'\)"):
        announce(DECLINED, subject=ORDER)
    with transaction_of("orders"), pytest.raises(ContractError, match="payments"):
        announce(DECLINED, subject=ORDER)
    assert not Outbox.objects.exists()


@everywhere
def test_what_is_rolled_back_was_never_announced() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        transaction.set_rollback(True, using=alias_of("payments"))
    assert not Outbox.objects.exists()


@everywhere
def test_the_events_of_each_order_are_counted_from_one_without_gaps() -> None:
    with transaction_of("payments"):
        for subject in (ORDER, ANOTHER, ORDER, ORDER):
            announce(DECLINED, subject=subject)
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
        transaction.set_rollback(True, using=alias_of("payments"))
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)

    def counted(subject: UUID) -> list[int]:
        return list(Outbox.objects.filter(subject=subject).order_by("position").values_list("sequence", flat=True))

    assert counted(ORDER) == [1, 2, 3, 4]
    assert counted(ANOTHER) == [1]


@everywhere
def test_two_events_of_one_order_never_have_the_same_number() -> None:
    with transaction_of("payments"):
        announce(DECLINED, subject=ORDER)
    row = Outbox.objects.get()
    row.pk, row.event_id = None, world.new_id()
    with pytest.raises(IntegrityError), transaction.atomic(using=alias_of("payments")):
        row.save(force_insert=True)


@everywhere
def test_a_reaction_announces_with_its_cause() -> None:
    cause = event()
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with transaction_of("payments"), caused_by(capture, cause):
        announced = announce(PaymentCaptured(amount=1, currency="EUR"), subject=ORDER)
    assert (announced.causationid, announced.correlationid) == (cause.id, "flow")


@everywhere
def test_a_reaction_cannot_announce_what_it_did_not_declare() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with (
        transaction_of("payments"),
        caused_by(capture, event()),
        pytest.raises(ContractError, match=r"payments.capture_payment .* add PaymentDeclined"),
    ):
        announce(DECLINED, subject=ORDER)
    assert not Outbox.objects.exists()


@everywhere
def test_a_reaction_cannot_announce_another_services_fact() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with (
        transaction_of("shipping"),
        caused_by(capture, event()),
        pytest.raises(ContractError, match="a fact of shipping"),
    ):
        announce(ShipmentDelivered(parcel="p"), subject=ORDER)


@everywhere
def test_a_cause_ends_with_its_reaction_even_if_that_failed() -> None:
    capture = reaction("payments", "shipping.shipment_dispatched.v1")
    with pytest.raises(ZeroDivisionError), caused_by(capture, event()):
        raise ZeroDivisionError
    with transaction_of("payments"):
        announced = announce(CaptureFailed(reason="x"), subject=ORDER)
    assert announced.causationid is None
