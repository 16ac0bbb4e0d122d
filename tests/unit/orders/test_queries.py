"""Placing an order takes as many queries for many lines as for one."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orders.models import Order, Product
from orders.services import Pick, place_order
from tests.unit.orders.admin_pages import ADD, a_product, complaints, filled_in, log_in_clerk

pytestmark = pytest.mark.django_db(databases="__all__")


def asked(work: Callable[[], Any]) -> list[str]:
    """The statements of something, over all databases."""
    with ExitStack() as stack:
        captured = [stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in connections]
        work()
    return [query["sql"] for queries in captured for query in queries]


def products(number: int) -> list[Product]:
    return [a_product(str(uuid4())) for _ in range(number)]


def place(lines: int) -> list[str]:
    picks = [Pick(product, 2) for product in products(lines)]
    order = Order(
        customer_name="Ada Example",
        customer_email="ada@example.org",
        street="Main Street 1",
        city="Bonn",
        country="DE",
        payment_token="tok_approved",
    )
    return asked(lambda: place_order(order, picks))


def send_form(clerk: Client, lines: int, quantity: int = 2) -> list[str]:
    form = filled_in(*((product.pk, quantity) for product in products(lines)))
    return asked(lambda: clerk.post(ADD, form))


@pytest.fixture
def clerk(client: Client) -> Client:
    """Someone whose first page is behind them: Django has filled its caches."""
    log_in_clerk(client)
    send_form(client, 1)
    return client


def test_an_order_of_many_lines_takes_as_many_statements_as_one_of_one() -> None:
    for_one, for_many = place(1), place(30)

    assert len(for_many) == len(for_one) <= 8
    assert Order.objects.latest("placed_at").lines.count() == 30


def test_so_does_the_form(clerk: Client) -> None:
    for_one, for_many = send_form(clerk, 1), send_form(clerk, 30)

    assert len(for_many) == len(for_one)
    assert sum('FROM "orders_product"' in sql for sql in for_many) == 1
    assert Order.objects.latest("placed_at").lines.count() == 30


def test_so_does_a_form_that_is_shown_again(clerk: Client) -> None:
    before = Order.objects.count()
    for_one, for_many = send_form(clerk, 1, quantity=0), send_form(clerk, 30, quantity=0)

    assert len(for_many) == len(for_one)
    assert Order.objects.count() == before


def test_a_form_that_is_shown_again_has_the_products_that_were_picked(clerk: Client) -> None:
    tea, cup = a_product("TEA"), a_product("CUP")

    response = clerk.post(ADD, filled_in((tea.pk, 1), (cup.pk, 0), ("rubbish", 1), (10**30, 1)))

    assert complaints(response)
    page = response.content.decode()
    assert f'<option value="{tea.pk}" selected>Tea (€12.50)</option>' in page
    assert f'<option value="{cup.pk}" selected>Cup (€12.50)</option>' in page
