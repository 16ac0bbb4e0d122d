"""The status follows from the facts, and the database keeps the rules: each broken once on purpose."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from choreography.core import clock
from orders.models import DeadLetter, Inbox, Order, OrderLine, Outbox, Product

pytestmark = pytest.mark.django_db(databases="__all__")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def order(**facts: Any) -> Order:
    return Order.objects.create(customer_name="Ada", currency="EUR", **{"total": 100} | facts)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ("", "placed"),
        ("authorized", "authorized"),
        ("authorized dispatched", "dispatched"),
        ("dispatched", "dispatched"),
        ("delivered", "dispatched"),
        ("captured", "placed"),
        ("authorized dispatched captured", "dispatched"),
        ("delivered captured", "completed"),
        ("authorized dispatched delivered captured", "completed"),
        ("cancel_requested", "cancelling"),
        ("authorized dispatched cancel_requested", "cancelling"),
        ("delivered captured cancel_requested", "completed"),
        ("cancelled", "cancelled"),
        ("authorized dispatched captured cancelled cancel_requested", "cancelled"),
    ],
)
def test_the_status_follows_from_the_facts(facts: str, status: str) -> None:
    made = order(**{f"{fact}_at": NOON for fact in facts.split()})
    made.refresh_from_db()
    assert made.status == status
    assert made.is_cancelled == (status == "cancelled")
    assert made.is_completed == (status == "completed")


BROKEN: dict[str, Callable[[], object]] = {
    "orders_product_price_sane": lambda: Product.objects.create(sku="A", name="A", price=0, currency="EUR"),
    "orders_order_total_sane": lambda: order(total=0),
    "orders_order_never_cancelled_and_delivered": lambda: order(cancelled_at=NOON, delivered_at=NOON),
    "orders_order_gives_back_no_more_than_total": lambda: order(released=101),
    "orders_line_quantity_sane": lambda: OrderLine.objects.create(
        order=order(),
        product=Product.objects.create(sku="A", name="A", price=1, currency="EUR"),
        quantity=0,
        unit_price=1,
    ),
}


@pytest.mark.parametrize("constraint", BROKEN)
def test_the_database_refuses_what_must_not_be(constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic(using="orders"):
        BROKEN[constraint]()


def test_there_is_one_order_per_form_and_one_product_per_sku() -> None:
    form = uuid4()
    order(submission=form)
    Product.objects.create(sku="A", name="A", price=1, currency="EUR")
    with pytest.raises(IntegrityError, match="submission"), transaction.atomic(using="orders"):
        order(submission=form)
    with pytest.raises(IntegrityError, match="sku"), transaction.atomic(using="orders"):
        Product.objects.create(sku="A", name="B", price=1, currency="EUR")


def test_an_event_takes_effect_once_per_reaction() -> None:
    heard = {"event_id": uuid4(), "event_type": "t", "subject": uuid4()}
    Inbox.objects.create(reaction="one", **heard)
    Inbox.objects.create(reaction="two", **heard)
    with pytest.raises(IntegrityError), transaction.atomic(using="orders"):
        Inbox.objects.create(reaction="one", **heard)


def test_an_event_is_announced_once_and_counted_once_per_order() -> None:
    event = {"event_id": uuid4(), "event_type": "t", "subject": uuid4(), "sequence": 1, "body": "{}"}
    Outbox.objects.create(**event)
    for twin in (event | {"sequence": 2}, event | {"event_id": uuid4()}):
        with pytest.raises(IntegrityError), transaction.atomic(using="orders"):
            Outbox.objects.create(**twin)


def test_there_is_one_dead_letter_per_message() -> None:
    DeadLetter.objects.create(key="k", error="E", message="", body=b"")
    with pytest.raises(IntegrityError, match="key"), transaction.atomic(using="orders"):
        DeadLetter.objects.create(key="k", error="E", message="", body=b"")


def test_people_call_an_order_by_its_last_eight_digits() -> None:
    made = Order(id=clock.new_id())
    assert str(made) == made.number == str(made.id)[-8:].upper()
