"""Many rows with one statement: inserted, updated, locked."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models.signals import post_save, pre_save
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from choreography.core import clock
from choreography.core.errors import Conflict
from choreography.storage.bulk import insert_all, insert_new, locked, update_rows
from orders.models import DeadLetter, Inbox, Order
from payments.models import Entry, Payment

pytestmark = pytest.mark.django_db(databases="__all__")

ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))
ONCE = ("event_id", "reaction")


def heard(event_id: UUID, reaction: str = "orders.react", **more: Any) -> Inbox:
    return Inbox(event_id=event_id, reaction=reaction, event_type="t", subject=str(event_id), **more)


def statements(work: Callable[[], object]) -> list[str]:
    """The statements of the work on the payments database, by their first word."""
    with CaptureQueriesContext(connections["payments"]) as found:
        work()
    return [query["sql"].split()[0] for query in found]


def change(*keys: UUID, **values: Any) -> list[Payment]:
    with locked(Payment.objects.all(), keys) as payments:
        for payment in payments:
            for name, value in values.items():
                setattr(payment, name, value)
    return payments


# Inserting


def test_rows_are_inserted_as_they_were_given() -> None:
    dead_letters = [DeadLetter(key=str(n), error="E", message="%s", body=b"\0%d", headers={"n": [n]}) for n in range(3)]

    insert_all(dead_letters, "orders")

    found = DeadLetter.objects.order_by("key")
    assert [(it.pk, it.key, bytes(it.body), it.headers) for it in found] == [
        (it.pk, it.key, it.body, it.headers) for it in dead_letters
    ]


def test_a_row_that_breaks_a_constraint_is_refused_with_all_others() -> None:
    with pytest.raises(IntegrityError), transaction.atomic(using="orders"):
        insert_all([heard(ONE), heard(TWO), heard(ONE)], "orders")
    assert not Inbox.objects.exists()


def test_generated_columns_are_left_to_the_database() -> None:
    insert_all([Order(customer_name="Ada", total=1, authorized_at=clock.now())], "orders")
    assert Order.objects.get().status == Order.Status.AUTHORIZED


def test_only_rows_that_are_not_there_yet_are_inserted() -> None:
    insert_all([heard(TWO), heard(THREE, "orders.another")], "orders")
    rows = [heard(THREE), heard(TWO), heard(ONE)]

    inserted = insert_new(rows, ONCE, "orders")

    assert inserted == [rows[0], rows[2]]
    assert Inbox.objects.get(pk=rows[0].pk).event_id == THREE
    assert Inbox.objects.get(pk=rows[2].pk).event_id == ONE
    assert rows[1].pk is None
    assert Inbox.objects.count() == 4


def test_of_two_that_are_the_same_the_first_is_inserted() -> None:
    first, second = heard(ONE, attempts=1), heard(ONE, attempts=2)

    assert insert_new([first, second], ONCE, "orders") == [first]
    assert Inbox.objects.get().attempts == 1


def test_a_row_that_breaks_another_constraint_is_refused() -> None:
    insert_all([Payment(pk=ONE)], "payments")
    with pytest.raises(IntegrityError), transaction.atomic(using="payments"):
        insert_new([Payment(pk=TWO, authorized=1)], ["order_id"], "payments")
    insert_all([Entry(payment_id=ONE, kind="voided", amount=1, key="k")], "payments")
    with pytest.raises(IntegrityError), transaction.atomic(using="payments"):
        insert_new([Entry(payment_id=ONE, kind="voided", amount=1, key="k")], ["id"], "payments")


def test_without_rows_there_is_no_statement() -> None:
    def nothing() -> None:
        insert_all([], "payments")
        update_rows([], ["asked"], "payments")
        update_rows([Payment(pk=ONE)], [], "payments")
        assert insert_new([], ONCE, "payments") == []

    assert statements(nothing) == []


# Updating


def test_each_row_is_given_values_of_its_own() -> None:
    insert_all([Payment(pk=key, reference="as it was") for key in (ONE, TWO, THREE)], "payments")
    now = clock.now().replace(microsecond=7)
    changed = [
        Payment(pk=ONE, asked=1, currency="EUR", order_cancelled=True, authorized_at=now),
        Payment(pk=TWO, asked=2, currency="KRW", order_cancelled=False, authorized_at=None),
    ]

    update_rows(changed, ["asked", "currency", "order_cancelled", "authorized_at"], "payments")

    found = Payment.objects.order_by("pk").values_list(
        "asked", "currency", "order_cancelled", "authorized_at", "reference"
    )
    assert list(found) == [
        (1, "EUR", True, now, "as it was"),
        (2, "KRW", False, None, "as it was"),
        (0, "", False, None, "as it was"),
    ]


def test_a_column_can_be_emptied_in_every_row() -> None:
    insert_all([Payment(pk=key, authorized_at=clock.now()) for key in (ONE, TWO)], "payments")
    update_rows([Payment(pk=key) for key in (ONE, TWO)], ["authorized_at"], "payments")
    assert list(Payment.objects.values_list("authorized_at", flat=True)) == [None, None]


def test_if_one_row_breaks_a_constraint_none_is_changed() -> None:
    insert_all([Payment(pk=key) for key in (ONE, TWO)], "payments")
    with pytest.raises(IntegrityError, match="payments_no_more_authorized"), transaction.atomic(using="payments"):
        update_rows([Payment(pk=ONE, asked=1), Payment(pk=TWO, authorized=1)], ["asked", "authorized"], "payments")
    assert not Payment.objects.exclude(asked=0, authorized=0).exists()


# Signals


def test_signals_are_sent_for_each_row_before_and_after() -> None:
    sent: list[tuple[str, UUID, bool]] = []

    def before(instance: Any, **_: Any) -> None:
        sent.append(("before", instance.pk, Payment.objects.filter(pk=instance.pk, asked=instance.asked).exists()))

    def after(instance: Any, created: bool, **_: Any) -> None:
        what = "created" if created else "changed"
        sent.append((what, instance.pk, Payment.objects.filter(pk=instance.pk, asked=instance.asked).exists()))

    pre_save.connect(before, sender=Payment)
    post_save.connect(after, sender=Payment)
    try:
        insert_all([Payment(pk=ONE)], "payments")
        insert_new([Payment(pk=ONE), Payment(pk=TWO)], ["order_id"], "payments")
        update_rows([Payment(pk=ONE, asked=5)], ["asked"], "payments")
    finally:
        pre_save.disconnect(before, sender=Payment)
        post_save.disconnect(after, sender=Payment)

    assert sent == [
        *(("before", ONE, False), ("created", ONE, True)),
        *(("before", ONE, True), ("before", TWO, False), ("created", TWO, True)),
        *(("before", ONE, False), ("changed", ONE, True)),
    ]


# Locking


def test_rows_come_in_the_order_of_their_keys_and_blank_where_there_are_none() -> None:
    insert_all([Payment(pk=ONE, asked=1), Payment(pk=THREE, asked=3)], "payments")
    with locked(Payment.objects.all(), [THREE, TWO, ONE]) as payments:
        assert [(payment.pk, payment.asked) for payment in payments] == [(THREE, 3), (TWO, 0), (ONE, 1)]


def test_what_was_changed_is_written_and_nothing_else() -> None:
    insert_all([Payment(pk=ONE), Payment(pk=TWO)], "payments")
    with locked(Payment.objects.all(), [ONE, TWO, THREE, uuid4()]) as [one, two, three, _]:
        one.asked, two.currency, three.asked = 7, "EUR", 9
        # Only the changed columns are written: this one stays.
        Payment.objects.filter(pk=ONE).update(reference="written otherwise")

    assert list(Payment.objects.order_by("pk").values_list("pk", "asked", "currency", "reference")) == [
        (ONE, 7, "", "written otherwise"),
        (TWO, 0, "EUR", ""),
        (THREE, 9, "", ""),
    ]


def test_loading_changing_and_adding_take_one_statement_each_however_many_rows_there_are() -> None:
    few, many = [ONE], [uuid4() for _ in range(50)]
    for keys in (few, many):
        assert statements(lambda: change(*keys)) == ["SELECT"]  # noqa: B023
        assert statements(lambda: change(*keys, asked=1)) == ["SELECT", "INSERT"]  # noqa: B023
        assert statements(lambda: change(*keys, asked=1)) == ["SELECT"]  # noqa: B023
        assert statements(lambda: change(*keys, asked=2, currency="EUR")) == ["SELECT", "UPDATE"]  # noqa: B023
    assert Payment.objects.filter(asked=2, currency="EUR").count() == 51


def test_nothing_is_written_when_the_work_fails() -> None:
    def change_and_fail() -> None:
        with locked(Payment.objects.all(), [ONE, TWO]) as [one, two]:
            one.asked = two.asked = 1
            raise ZeroDivisionError

    insert_all([Payment(pk=ONE)], "payments")
    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert list(Payment.objects.values_list("pk", "asked")) == [(ONE, 0)]


def test_a_row_that_was_created_meanwhile_is_a_conflict() -> None:
    def change_too_late() -> None:
        with locked(Payment.objects.all(), [ONE]) as [mine]:
            mine.asked = 1
            Payment.objects.create(pk=ONE, asked=2)

    with pytest.raises(Conflict, match=r"payments\.Payment"):
        change_too_late()
    assert Payment.objects.get().asked == 2


def test_a_missing_row_may_be_refused() -> None:
    def refuse(key: UUID) -> Payment:
        raise LookupError(key)

    with pytest.raises(LookupError), locked(Payment.objects.all(), [ONE], refuse):
        pytest.fail("continued without it")


def test_a_row_that_was_created_can_be_locked_again() -> None:
    change(ONE, asked=1)
    change(ONE, asked=1 + 1, authorized_at=clock.now() - timedelta(days=1))
    assert Payment.objects.get().asked == 2


@pytest.mark.django_db(transaction=True, databases=["payments"])
def test_rows_are_only_locked_inside_a_transaction() -> None:
    with pytest.raises(TransactionManagementError), locked(Payment.objects.all(), [ONE]):
        pytest.fail("locked nothing")
