"""Rows by subject: locked, current or missing, and subjects that can't be a key."""

from uuid import UUID, uuid4

import pytest
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from choreography.core import clock
from choreography.core.errors import Conflict, Unusable
from choreography.events.messages import CONTENT_TYPE, Event, Nothing
from choreography.inbox.deliveries import Delivery, Parked
from choreography.inbox.handler import handle_one
from choreography.storage.bulk import insert_all
from orders.models import Order, UnknownOrder
from shipping.models import DeadLetter, Shipment

pytestmark = pytest.mark.django_db(databases="__all__")

ONE, TWO, THREE = (str(UUID(int=number)) for number in (1, 2, 3))

#: Anything but a UUID, which is the key of a shipment.
NO_KEYS = ["", "order 7", "x" * 200, f"{ONE}0"]


def seen(shipments: list[Shipment]) -> list[tuple[str, str, bool]]:
    return [(str(it.pk), it.city, it._state.adding) for it in shipments]


def test_a_current_row_is_given_for_each_subject_in_their_order_and_a_blank_one_where_there_is_none() -> None:
    insert_all([Shipment(pk=ONE, city="one"), Shipment(pk=THREE, city="three")], "shipping")
    shipments = Shipment.objects.current([THREE, TWO, ONE])
    assert seen(shipments) == [(THREE, "three", False), (TWO, "", True), (ONE, "one", False)]
    assert Shipment.objects.count() == 2, "a blank row is not saved"


def test_a_subject_may_be_given_as_the_key_it_stands_for() -> None:
    insert_all([Shipment(pk=ONE, city="one")], "shipping")
    assert seen(Shipment.objects.current([UUID(ONE)])) == seen(Shipment.objects.current([ONE]))


def test_current_rows_take_one_statement_and_no_transaction() -> None:
    with CaptureQueriesContext(connections["shipping"]) as queries:
        Shipment.objects.current([str(uuid4()) for _ in range(50)])
    assert len(queries) == 1
    assert "FOR UPDATE" not in queries[0]["sql"]
    with CaptureQueriesContext(connections["shipping"]) as queries:
        assert Shipment.objects.current([]) == []
    assert len(queries) == 0


def test_a_change_to_a_current_row_is_not_written() -> None:
    insert_all([Shipment(pk=ONE)], "shipping")
    [shipment] = Shipment.objects.current([ONE])
    shipment.city = "changed"
    assert Shipment.objects.get().city == ""


def test_what_a_block_changes_about_locked_rows_is_written_at_its_end() -> None:
    insert_all([Shipment(pk=ONE), Shipment(pk=TWO, city="two")], "shipping")
    with transaction.atomic(using="shipping"), Shipment.objects.locked([THREE, TWO, ONE]) as shipments:
        assert seen(shipments) == [(THREE, "", True), (TWO, "two", False), (ONE, "", False)]
        shipments[0].city = "new"
        shipments[2].city = "changed"
        assert seen(Shipment.objects.current([ONE])) == [(ONE, "", False)]
    assert list(Shipment.objects.order_by("pk").values_list("city", flat=True)) == ["changed", "two", "new"]


def test_a_blank_row_that_is_not_changed_is_not_written() -> None:
    with Shipment.objects.locked([ONE]) as [shipment]:
        assert shipment._state.adding
    assert not Shipment.objects.exists()


def test_two_events_about_one_subject_get_the_same_locked_row() -> None:
    with Shipment.objects.locked([ONE, ONE]) as [first, second]:
        assert first is second
        first.city = "once"
    assert Shipment.objects.get().city == "once"


def test_nothing_is_written_when_the_block_fails() -> None:
    insert_all([Shipment(pk=ONE)], "shipping")
    with pytest.raises(ZeroDivisionError), Shipment.objects.locked([ONE]) as [shipment]:
        shipment.city = str(1 / 0)
    assert Shipment.objects.get().city == ""


def test_a_row_that_was_created_meanwhile_is_a_conflict() -> None:
    def change_too_late() -> None:
        with Shipment.objects.locked([ONE]) as [shipment]:
            Shipment.objects.create(pk=ONE, city="earlier")
            shipment.city = "later"

    with pytest.raises(Conflict, match=r"shipping\.Shipment"):
        change_too_late()
    assert Shipment.objects.get().city == "earlier"


@pytest.mark.django_db(transaction=True, databases=["shipping"])
def test_rows_are_only_locked_inside_a_transaction() -> None:
    with pytest.raises(TransactionManagementError), Shipment.objects.locked([ONE]):
        pytest.fail("locked nothing")


def test_a_table_may_refuse_a_subject_without_a_row() -> None:
    order = Order.objects.create(customer_name="Ada", total=1, currency="EUR")
    known, unknown = str(order.pk), str(uuid4())
    assert Order.objects.current([known]) == [order]
    with pytest.raises(UnknownOrder, match=unknown):
        Order.objects.current([known, unknown])
    with pytest.raises(UnknownOrder, match=unknown), Order.objects.locked([known, unknown]):
        pytest.fail("locked some")


@pytest.mark.parametrize("subject", NO_KEYS, ids=range(len(NO_KEYS)))
def test_a_subject_that_is_no_key_of_the_table_is_unusable(subject: str) -> None:
    with pytest.raises(Unusable, match=r"^the subject is no key of shipping\.Shipment$"):
        Shipment.objects.current([ONE, subject])
    with (
        pytest.raises(Unusable, match=r"^the subject is no key of shipping\.Shipment$"),
        Shipment.objects.locked([ONE, subject]),
    ):
        pytest.fail("locked some")


def test_an_event_about_a_subject_that_is_no_key_of_the_table_is_parked_at_once() -> None:
    event = Event[Nothing](
        id=clock.new_id(),
        type="payments.payment_authorized.v1",
        source="payments",
        subject="order 7",
        time=clock.now(),
        data=Nothing(),
    )
    assert isinstance(handle_one(Delivery("shipping", event.to_json().encode(), CONTENT_TYPE)), Parked)
    dead_letter = DeadLetter.objects.get()
    assert (dead_letter.error, dead_letter.subject, dead_letter.attempts) == ("Unusable", "order 7", 1)
