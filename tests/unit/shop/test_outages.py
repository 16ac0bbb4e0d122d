"""While a database can't be used, a person is told so and what to do."""

import pytest
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client

from shop.outages import OutageMiddleware

pytestmark = pytest.mark.django_db(databases="__all__")


def take_away(alias: str, table: str) -> None:
    """As if the migrations were still to come, which is an outage too. The test's transaction brings it back."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")


def test_a_page_whose_table_is_missing_says_what_to_do(admin_client: Client) -> None:
    take_away("orders", "orders_order")

    response = admin_client.get("/admin/orders/order/")

    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert b"The database can't be used just now" in response.content


def test_the_same_where_nobody_knows_who_is_asking(admin_client: Client) -> None:
    take_away("default", "django_session")

    response = admin_client.get("/")

    assert response.status_code == 503
    assert b"The database can't be used just now" in response.content


def test_a_person_without_a_session_sees_what_needs_no_database(client: Client) -> None:
    take_away("default", "django_session")

    assert client.get("/").status_code == 200


def test_other_errors_are_left_alone() -> None:
    middleware = OutageMiddleware(lambda request: HttpResponse())

    assert middleware.process_exception(HttpRequest(), ZeroDivisionError()) is None
