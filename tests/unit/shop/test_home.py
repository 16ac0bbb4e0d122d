"""The home page: who reacts to what, and what waits for a person; in production for the staff only."""

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from choreography.events.registry import reactions
from choreography.storage.tables import ServiceTables
from tests.unit.orders.admin_pages import log_in

pytestmark = pytest.mark.django_db(databases="__all__")


def home(client: Client, url: str = "/") -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def test_who_tries_it_out_sees_every_reaction(client: Client, settings: Settings) -> None:
    settings.DEBUG = True
    page = home(client, "/reactions/")

    for reaction in reactions():
        assert reaction.name in page


def test_the_staff_sees_every_reaction(client: Client) -> None:
    log_in(client, "orders.view_order")
    page = home(client, "/reactions/")

    for reaction in reactions():
        assert reaction.name in page


def test_in_production_a_stranger_sees_nothing_of_the_inside(client: Client, settings: Settings) -> None:
    settings.FLOWER_URL = "http://127.0.0.1:5555/"
    page = home(client) + home(client, "/reactions/")

    for reaction in reactions():
        assert reaction.name not in page
    assert "5555" not in page
    assert 'href="/admin/"' in page


def test_a_stranger_sees_nothing_of_dead_letters(client: Client) -> None:
    assert "Dead letters" not in home(client)


def test_the_staff_sees_how_many_dead_letters_wait_in_the_services_it_may_see(client: Client) -> None:
    log_in(client, "orders.view_deadletter")
    dead_letters = ServiceTables("orders").dead_letters
    dead_letters.create(key="1", error="Bug", message="", body=b"")
    dead_letters.create(key="2", error="Bug", message="", body=b"", state="resolved")

    page = home(client)

    assert '<a href="/admin/orders/deadletter/">orders</a>: <strong>1</strong>' in page
    assert "/admin/payments/deadletter/" not in page


def test_flower_is_linked_where_its_address_is_known(client: Client, settings: Settings) -> None:
    settings.DEBUG = True
    settings.FLOWER_URL = "http://127.0.0.1:5555/"

    assert 'href="http://127.0.0.1:5555/"' in home(client)


def test_nothing_comes_from_elsewhere(client: Client) -> None:
    page = home(client)

    assert 'src="http' not in page
    assert "<script" not in page
