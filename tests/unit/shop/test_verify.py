"""The judgement on how orders ended. Everything is played rightly first; then one thing is tampered with."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pytest_django.fixtures import Settings

from choreography.core import clock
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock
from orders.models import Order
from payments.models import Entry, Payment
from shipping.models import Shipment
from shop import flows, samples, verify
from shop.samples import SAMPLES
from tests.shop_in_a_box import Shop

pytestmark = pytest.mark.django_db(databases="__all__")

DELIVERED, DECLINED, UNDELIVERABLE, CANCELLED, RETRIED = SAMPLES

Tampering = Callable[[UUID, Path], object]


@pytest.fixture
def shop(data_dir: Path, settings: Settings) -> Iterator[Shop]:
    settings.SANDBOX_SLOW_SECONDS = 0.0
    frozen = FrozenClock()
    with clock.use_clock(frozen):
        shop = Shop(frozen)
        yield shop
        shop.close()


def in_records(statement: str, file: str = "gateway") -> Tampering:
    """Change the sandbox's own records. ``:order`` stands for the order's id, ``:keys`` for its keys."""

    def tamper(order_id: UUID, sandbox: Path) -> None:
        with closing(sqlite3.connect(sandbox / f"{file}.sqlite3")) as records, records:
            changed = records.execute(statement, {"order": str(order_id), "keys": f"{order_id}:%"})
            assert changed.rowcount == 1

    return tamper


TWICE = """
    INSERT INTO operations
    SELECT key || ':again', kind, reference, token, amount, currency, outcome, reason, recorded_at, request
    FROM operations WHERE key LIKE :keys AND kind = 'capture'
"""


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (
            lambda o, _: Order.objects.filter(pk=o).update(delivered_at=None),
            "the order's status: dispatched instead of",
        ),
        (lambda o, _: Order.objects.filter(pk=o).update(reason="why"), "the reason: why instead of nothing"),
        (lambda o, _: Order.objects.filter(pk=o).update(released=1), "the amount given back, as orders heard: 1"),
        (lambda o, _: Order.objects.filter(pk=o).update(attention="!"), "what needs a person: ! instead of nothing"),
        (lambda o, _: Payment.objects.filter(pk=o).update(captured=1), "the sum captured: 1 instead of 6400"),
        (lambda o, _: Payment.objects.filter(pk=o).update(refunded=1), "what payments keeps: 6399 instead of 6400"),
        (lambda o, _: Payment.objects.filter(pk=o).update(currency="USD"), "the currency: USD instead of EUR"),
        (lambda o, _: Payment.objects.filter(pk=o).delete(), "payments has no ledger for the order"),
        (lambda o, _: Entry.objects.filter(payment=o, kind="captured").delete(), "the ledger: authorized 6400 instead"),
        (
            lambda o, _: Entry.objects.filter(payment=o, kind="captured").update(amount=1),
            "captured 6400 EUR instead of",
        ),
        (lambda o, _: Entry.objects.filter(payment=o, kind="captured").update(key="x"), "the gateway's record of x"),
        (in_records(TWICE), "what the gateway has charged: 12800 instead of 6400"),
        (
            in_records("DELETE FROM operations WHERE key LIKE :keys AND kind = 'capture'"),
            "the gateway still holds: 6400",
        ),
        (
            in_records("UPDATE operations SET amount = 1 WHERE key LIKE :keys AND kind = 'capture'"),
            ":capture: captured 1 EUR instead of captured 6400 EUR",
        ),
        (
            lambda o, _: Shipment.objects.filter(pk=o).update(state="failed"),
            "the shipment: failed instead of delivered",
        ),
        (lambda o, _: Shipment.objects.filter(pk=o).update(parcel="x"), "the parcel's name, as orders heard"),
        (lambda o, _: Shipment.objects.filter(pk=o).delete(), "shipping has no shipment for the order"),
        (in_records("DELETE FROM bookings WHERE key = :order", "carrier"), "what the carrier has delivered: nothing"),
        (
            in_records("UPDATE bookings SET due_at = '2999-01-01T00:00:00+00:00' WHERE key = :order", "carrier"),
            "what the carrier has on its way: parcel_",
        ),
        (
            lambda o, _: outbox("payments").filter(subject=o).update(published_at=None),
            "payments.payment_captured.v1 is not published",
        ),
        (
            lambda o, _: inbox("orders").filter(subject=o, reaction="orders.record_capture").delete(),
            "orders.record_capture has not heard payments.payment_captured.v1",
        ),
        (
            lambda o, _: inbox("payments").filter(subject=o, reaction="payments.authorize_payment").delete(),
            "authorizing took [] attempts",
        ),
    ],
)
def test_a_sale_that_was_tampered_with_is_found_out(
    shop: Shop, settings: Settings, tamper: Tampering, complaint: str
) -> None:
    (order,) = samples.place([DELIVERED])
    shop.settle()
    assert verify.faults(order.pk, DELIVERED.ending) == []

    tamper(order.pk, settings.SANDBOX_DIR)

    faults = verify.faults(order.pk, DELIVERED.ending)
    assert any(complaint in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (lambda o, _: Payment.objects.filter(pk=o).update(voided=0), "what payments still holds: 6400 instead of 0"),
        (in_records("DELETE FROM operations WHERE key LIKE :keys AND kind = 'void'"), "the gateway still holds: 6400"),
        (lambda o, _: Order.objects.filter(pk=o).update(released=None), "nothing instead of 6400"),
        (
            in_records(
                "INSERT INTO bookings VALUES (:order, 'parcel_x', '', '2026-01-01T00:00:00+00:00',"
                " '2026-01-01T00:00:01+00:00', NULL)",
                "carrier",
            ),
            "what the carrier has delivered: parcel_x instead of nothing",
        ),
    ],
)
def test_a_cancellation_that_was_tampered_with_is_found_out(
    shop: Shop, settings: Settings, tamper: Tampering, complaint: str
) -> None:
    cancelled = replace(CANCELLED, picks=DELIVERED.picks)
    (order,) = samples.place([cancelled])
    shop.settle()
    assert verify.faults(order.pk, cancelled.ending) == []

    tamper(order.pk, settings.SANDBOX_DIR)

    faults = verify.faults(order.pk, cancelled.ending)
    assert any(complaint in fault for fault in faults), faults


def test_a_declined_card_that_was_charged_is_found_out(shop: Shop, settings: Settings) -> None:
    (order,) = samples.place([DECLINED])
    shop.settle()

    in_records("UPDATE operations SET outcome = 'captured', amount = 6400 WHERE key LIKE :keys")(
        order.pk, settings.SANDBOX_DIR
    )

    faults = verify.faults(order.pk, DECLINED.ending)
    assert "what the gateway has charged: 6400 instead of 0" in faults
    assert "what the gateway declined: nothing instead of insufficient_funds" in faults


def test_an_order_whose_gateway_never_failed_is_not_one_that_was_retried(shop: Shop) -> None:
    (order,) = samples.place([DELIVERED])
    shop.settle()

    assert verify.faults(order.pk, RETRIED.ending) == ["authorizing took [1] attempts instead of 3 or more"]


def test_an_order_that_is_under_way_has_not_ended(shop: Shop) -> None:
    (order,) = samples.place([DELIVERED])
    shop.drain()

    assert not verify.has_ended(order.pk)


def test_an_order_has_not_ended_before_everyone_has_heard_so(shop: Shop) -> None:
    (order,) = samples.place([DECLINED])
    while Order.objects.get(pk=order.pk).status != Order.Status.CANCELLED:
        for service in shop.services:
            shop.relay(service)
            shop.handle_next(service)

    assert not verify.has_ended(order.pk)


def test_dead_letters_are_found_by_their_order_and_by_their_time(shop: Shop) -> None:
    (order,) = samples.place([DELIVERED])
    start = clock.now()
    dead_letters = ServiceTables("shipping").dead_letters
    dead_letters.create(
        key="1", error="OfThisOrder", subject=str(order.pk), body=b"", parked_at=start - timedelta(days=1)
    )
    dead_letters.create(key="2", error="OfNow", body=b"", parked_at=start)
    dead_letters.create(key="3", error="OfYesterday", body=b"", parked_at=start - timedelta(days=1))

    faults = list(verify.dead_letter_faults([order.pk], start))

    assert [fault.rpartition(" ")[2] for fault in faults] == ["OfNow", "OfThisOrder"]


def test_flower_must_show_workers_tasks_and_retries(shop: Shop) -> None:
    (order,) = samples.place([RETRIED])
    shop.settle()
    steps = {order.pk: flows.steps(order.pk)}
    workers = {f"{service}@here": True for service in shop.services}
    tasks = [
        {"name": step.reaction, "state": "SUCCESS", "retried": 1.0 if step.attempts > 1 else None}
        for step in steps[order.pk]
        if step.reaction
    ]
    assert list(verify.flower_faults(workers, tasks, steps)) == []

    assert list(verify.flower_faults(workers | {"orders@here": False}, tasks, steps)) == [
        "Flower shows no worker orders@..."
    ]
    assert list(verify.flower_faults(workers, [task | {"retried": None} for task in tasks], steps)) == [
        "Flower shows no RETRY of payments.authorize_payment"
    ]
    assert "Flower shows no task shipping.dispatch_shipment that succeeded" in verify.flower_faults(workers, [], steps)


def outbox(service: str) -> Any:
    return ServiceTables(service).outbox


def inbox(service: str) -> Any:
    return ServiceTables(service).inbox
