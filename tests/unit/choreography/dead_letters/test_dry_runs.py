"""A dry run shows what a dead letter would do, and leaves nothing but a line in its history."""

from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog.testing
from django.db import connections, transaction

from choreography.core import clock
from choreography.dead_letters.actions import By
from choreography.dead_letters.dry_runs import DryRun, dry_run
from choreography.events.messages import CONTENT_TYPE, read_envelope
from choreography.outbox.announcing import announce
from choreography.storage.claims import claimed
from choreography.storage.models import DeadLetterAction
from choreography.storage.tables import ServiceTables
from choreography.testing import override
from orders.events import OrderCancelled
from orders.models import Order
from payments.models import Payment
from shipping.models import Shipment
from tests.shop_in_a_box import Shop
from tests.unit.choreography.parked import captured, history, mend, park

pytestmark = pytest.mark.django_db(databases="__all__")

Outcome = DeadLetterAction.Outcome
BY = By("ada", "to see")


def dead_letter_of(service: str, body: bytes, **details: Any) -> Any:
    """A dead letter with a message as it might have been parked."""
    return ServiceTables(service).dead_letters.create(
        key=str(uuid4()), error="KeyError", message="", body=body, content_type=CONTENT_TYPE, **details
    )


def message(shop: Shop, service: str) -> bytes:
    """The next message for a service."""
    for each in shop.services:
        shop.relay(each)
    taken = shop.take(service)
    assert taken is not None
    return taken.body


def rows() -> dict[str, int]:
    """How many rows every table of the services has, but for the history of dead letters."""
    found = {}
    for service in ("orders", "payments", "shipping"):
        for model in ServiceTables(service).outbox.model._meta.app_config.get_models():
            if not issubclass(model, DeadLetterAction):
                found[model._meta.db_table] = model._base_manager.count()
    return found


def event_id(body: bytes) -> UUID:
    return read_envelope(body, CONTENT_TYPE, len(body)).id


def test_it_shows_what_would_change_and_be_announced(shop: Shop) -> None:
    order_id = uuid4()
    order = Order.objects.create(total=2500, currency="EUR", pk=order_id, delivered_at=clock.now())

    dead_letter = dead_letter_of("orders", captured(order_id))
    before = rows()

    found = dry_run(dead_letter, BY)

    assert found.outcome is Outcome.WOULD_TAKE_EFFECT
    assert found.is_promising
    (change,) = found.changes
    assert (change.row, change.what) == (f"orders.order {order_id}", "changed")
    assert change.fields["captured_at"] == (None, str(clock.now()))
    assert change.fields["status"][1] == "completed"  # worked out by the database
    assert "total" not in change.fields
    assert found.announces == [{"type": "orders.order_completed.v1", "data": {"currency": "EUR", "total": 2500}}]
    assert found.statements == []
    order.refresh_from_db()
    assert order.captured_at is None
    assert rows() == before


def test_it_shows_rows_that_would_be_added(shop: Shop) -> None:
    order = shop.place()

    found = dry_run(dead_letter_of("shipping", message(shop, "shipping")), BY)

    (change,) = found.changes
    assert (change.row, change.what) == (f"shipping.shipment {order.pk}", "added")
    assert change.fields["street"] == (None, "Main Street 1")
    assert not Shipment.objects.exists()


def test_it_shows_the_external_call_and_does_not_make_it(shop: Shop) -> None:
    order = shop.place()

    found = dry_run(dead_letter_of("payments", message(shop, "payments")), BY)

    assert found.outcome is Outcome.WOULD_CALL
    assert not found.is_promising
    assert found.calls is not None
    assert (found.calls["system"], found.calls["method"]) == ("payment gateway", "authorize")
    assert found.calls["arguments"]["amount"] == order.total
    assert shop.booked(order.pk) == []
    assert not Payment.objects.exists()


def test_what_is_committed_before_the_call_is_rolled_back_too(shop: Shop) -> None:
    order = shop.place()
    shop.hear_all("payments")
    shop.hear("shipping", "orders.order_placed.v2")

    found = dry_run(dead_letter_of("shipping", message(shop, "shipping")), BY)

    assert found.calls is not None
    assert found.calls["method"] == "book"
    assert shop.shipment(order).state == Shipment.State.PLANNED
    assert shop.sent(order.pk) == []


def test_it_shows_the_error_with_its_traceback(shop: Shop) -> None:
    (dead_letter,) = park(shop)

    found = dry_run(dead_letter, BY)

    assert found.outcome is Outcome.WOULD_FAIL
    assert found.error.startswith("UnknownOrder: ")
    assert "orders/models.py" in found.traceback
    assert not found.is_promising


@pytest.mark.parametrize("body", [b"rubbish", b"{}"])
def test_a_message_nobody_can_read_would_fail(shop: Shop, body: bytes) -> None:
    assert dry_run(dead_letter_of("orders", body), BY).error.startswith("Unusable: ")


@pytest.mark.django_db(transaction=True, databases="__all__")
def test_an_error_of_the_database_is_shown_and_leaves_the_connection_usable(shop: Shop) -> None:
    """Also where no savepoint is around the statement that failed."""

    def ask(payment: Any, event: Any) -> None:
        with connections["payments"].cursor() as cursor:
            cursor.execute("SELECT 1 FROM nowhere")

    shop.place()
    dead_letter = dead_letter_of("payments", message(shop, "payments"))

    with override("payments.authorize_payment", ask=ask):
        found = dry_run(dead_letter, BY)

    assert "nowhere" in found.error
    assert ServiceTables("payments").actions.get().outcome == Outcome.WOULD_FAIL


def test_what_took_effect_already_would_do_nothing(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)
    shop.send("orders", bytes(dead_letter.body))
    shop.drain()

    found = dry_run(dead_letter, BY)

    assert found == DryRun(Outcome.WOULD_DO_NOTHING)
    assert found.is_promising


def test_a_delivery_that_is_being_handled_would_have_to_wait(shop: Shop) -> None:
    shop.place()
    dead_letter = dead_letter_of("payments", body := message(shop, "payments"))

    with claimed("payments", "payments.authorize_payment", [event_id(body)]):
        found = dry_run(dead_letter, BY)

    assert found.error.startswith("NotYet: ")


def test_a_statement_that_changes_many_rows_is_named(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)

    def change_all(order: Order, event: Any) -> None:
        Order.objects.update(customer_name="Eve")

    with override(dead_letter.reaction, function=change_all):
        found = dry_run(dead_letter, BY)

    assert (found.changes, found.statements) == ([], ["UPDATE orders_order (1 rows)"])
    assert Order.objects.get().customer_name == ""


def test_rows_that_would_be_removed_are_shown(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)

    def remove(order: Order, event: Any) -> None:
        order.delete()

    with override(dead_letter.reaction, function=remove):
        (change,) = dry_run(dead_letter, BY).changes

    assert change.what == "removed"
    assert Order.objects.exists()


def test_what_a_reaction_takes_back_itself_is_not_shown(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)

    def change_one_and_another(order: Order, event: Any) -> None:
        with transaction.atomic(using="orders"):
            Order.objects.create(pk=uuid4(), total=1, currency="EUR")
            transaction.set_rollback(True, using="orders")
        announce(OrderCancelled(reason="test"), subject=event.subject)

    announces = frozenset(["orders.order_cancelled.v1"])
    with override(dead_letter.reaction, function=change_one_and_another, announces=announces):
        found = dry_run(dead_letter, BY)

    assert found.changes == []
    assert [event["type"] for event in found.announces] == ["orders.order_cancelled.v1"]


def test_it_leaves_a_line_in_the_history(shop: Shop) -> None:
    (dead_letter,) = park(shop)

    dry_run(dead_letter, BY)

    (line,) = dead_letter.actions.all()
    assert (line.who, line.why, line.what, line.outcome) == ("ada", "to see", "dry_run", "would_fail")
    assert line.detail == "UnknownOrder"
    assert line.ended_at == clock.now()


def test_it_does_not_touch_the_dead_letter_or_a_retry_that_is_under_way(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    dead_letter.actions.create(who="bob", what="retry")
    before = ServiceTables("orders").dead_letters.values().get()

    dry_run(dead_letter, BY)

    assert ServiceTables("orders").dead_letters.values().get() == before
    assert history() == [("retry", "pending"), ("dry_run", "would_fail")]


def test_nothing_of_it_is_logged(shop: Shop) -> None:
    (dead_letter,) = park(shop)
    mend(dead_letter)

    with structlog.testing.capture_logs() as logs:
        dry_run(dead_letter, BY)

    assert [line for line in logs if line["log_level"] != "debug"] == []
