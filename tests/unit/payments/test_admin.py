"""Payments in the admin: to be looked at, never to be changed by hand."""

from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.test import Client

from payments.models import Entry, Payment
from tests.unit.orders.admin_pages import log_in, queries

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/payments/payment/"


@pytest.fixture
def bookkeeper(client: Client) -> Client:
    log_in(client, "payments.view_payment")
    return client


def a_payment(amount: int = 2500, currency: str = "EUR") -> Payment:
    """Authorized and captured."""
    with transaction.atomic(using="payments"), Payment.objects.locked([uuid4()]) as [payment]:
        payment.asked, payment.currency = amount, currency
        payment.enter(Entry.Kind.AUTHORIZED, amount, f"{payment.pk}:authorize")
        payment.enter(Entry.Kind.CAPTURED, amount, f"{payment.pk}:capture")
    return payment


def url(order_id: UUID) -> str:
    return f"{LIST}{order_id}/change/"


def test_a_payment_shows_its_amounts_and_its_ledger(bookkeeper: Client) -> None:
    payment = a_payment(45000, "KRW")

    page = bookkeeper.get(url(payment.pk)).content.decode()

    # asked, authorized and captured; then the two entries
    assert page.count("₩45,000") == 5
    assert f"{payment.pk}:capture" in page


def test_a_payment_that_began_with_a_cancellation_is_shown(bookkeeper: Client) -> None:
    payment = Payment.objects.create(order_id=uuid4(), order_cancelled=True)

    assert bookkeeper.get(url(payment.pk)).status_code == 200


def test_the_list_shows_amounts_and_finds_by_number(bookkeeper: Client) -> None:
    payment, other = a_payment(2500), a_payment(990)

    page = bookkeeper.get(f"{LIST}?q={payment.order_id.hex[-8:]}").content.decode()

    assert "€25.00" in page
    assert "€9.90" not in page
    assert str(other.order_id) not in page


def test_nobody_changes_money_by_hand(client: Client) -> None:
    log_in(client, "payments.view_payment", "payments.view_entry")
    payment = a_payment()

    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(url(payment.pk), {"captured": "0"}).status_code == 403
    assert client.post(f"{LIST}{payment.pk}/delete/", {"post": "yes"}).status_code == 403


def test_without_the_permission_nobody_sees_it(client: Client) -> None:
    log_in(client, "orders.view_order")

    assert client.get(LIST).status_code == 403
    assert client.get(url(a_payment().pk)).status_code == 403


def test_list_and_page_take_as_many_queries_for_many_as_for_one(bookkeeper: Client) -> None:
    payment = a_payment()
    list_for_one, page_for_two_entries = queries(bookkeeper, LIST), queries(bookkeeper, url(payment.pk))
    for _ in range(5):
        a_payment()
    with transaction.atomic(using="payments"), Payment.objects.locked([payment.pk]) as [held]:
        held.enter(Entry.Kind.REFUNDED, 2500, f"{payment.pk}:refund")

    assert queries(bookkeeper, LIST) == list_for_one
    assert queries(bookkeeper, url(payment.pk)) == page_for_two_entries
