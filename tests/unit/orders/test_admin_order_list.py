"""The list of orders."""

import pytest
from django.test import Client

from choreography.core import clock
from orders import services
from orders.models import Order
from tests.unit.orders.admin_pages import LIST, an_order, log_in, log_in_clerk, queries
from tests.unit.orders.holding import holding

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def clerk(client: Client) -> Client:
    log_in_clerk(client)
    return client


def listed(clerk: Client, query: str = "") -> list[Order]:
    response = clerk.get(f"{LIST}?{query}")
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


def test_it_shows_number_customer_total_and_status(clerk: Client) -> None:
    order = an_order()

    page = clerk.get(LIST).content.decode()

    for text in (order.number, "Ada Example", "€25.00", '<span class="status status-placed">placed</span>'):
        assert text in page


def test_an_order_is_found_by_number_id_and_e_mail(clerk: Client) -> None:
    wanted = an_order(email="grace@example.org")
    an_order(email="ada@example.org")

    for term in (wanted.number, str(wanted.pk), "grace@"):
        assert listed(clerk, f"q={term}") == [wanted]


def test_orders_are_filtered_by_status(clerk: Client) -> None:
    cancelled = an_order()
    an_order()
    with holding(cancelled) as held:
        services.cancel_order(held, "lost", clock.now())

    assert listed(clerk, "status=cancelled") == [cancelled]
    assert len(listed(clerk)) == 2


def test_orders_that_need_a_person_can_be_picked_out(clerk: Client) -> None:
    stuck, well = an_order(), an_order()
    with holding(stuck) as held:
        services.ask_for_attention(held, "capture_failed")

    assert listed(clerk, "attention=yes") == [stuck]
    assert listed(clerk, "attention=no") == [well]


def test_it_takes_as_many_queries_for_many_orders_as_for_one(clerk: Client) -> None:
    an_order()
    for_one = queries(clerk, LIST)
    for _ in range(5):
        an_order()

    assert queries(clerk, LIST) == for_one <= 8


def test_without_the_permission_nobody_sees_it(client: Client) -> None:
    log_in(client, "orders.add_order")

    assert client.get(LIST).status_code == 403
