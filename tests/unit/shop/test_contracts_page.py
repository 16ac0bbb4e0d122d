"""The pages about events: everything a person wants to know of one, found by any word that it has."""

from html import unescape

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from choreography.events.messages import published
from tests.unit.orders.admin_pages import log_in

pytestmark = pytest.mark.django_db(databases="__all__")

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"


@pytest.fixture
def staff(client: Client) -> Client:
    log_in(client, "orders.view_order")
    return client


def page(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return unescape(response.content.decode())


def found(client: Client, words: str) -> set[str]:
    html = page(client, f"/contracts/?q={words}")
    return {event_type for event_type in published if f">{event_type}</code></a>" in html}


def test_every_event_is_listed_and_has_a_page(staff: Client) -> None:
    assert found(staff, "") == set(published)
    for event_type, event in published.items():
        html = page(staff, f"/contracts/{event_type}/")
        assert str(event.__doc__).strip() in html
        assert all(f"<code>{name}</code>" in html for name in event.model_fields)


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ("order_placed", {V1, V2}),
        ("POSTAL code", {V1, V2}),
        ("release_payment", {"orders.order_cancelled.v1"}),
        ("hold lapsed", {"payments.authorization_expired.v1"}),
        ("nothing at all like this", set()),
    ],
)
def test_events_are_found_by_any_word_they_have(staff: Client, words: str, events: set[str]) -> None:
    assert found(staff, words) == events


def test_a_page_says_who_reads_which_field_and_what_must_follow(staff: Client) -> None:
    html = page(staff, f"/contracts/{V2}/")
    total = html.partition("<code>total</code>")[2].partition("</tr>")[0]
    name = html.partition("<code>customer.name.full</code>")[2].partition("</tr>")[0]

    assert "payments.authorize_payment" in total
    assert "personal" not in total
    assert "shipping.plan_shipment" in name
    assert "personal" in name
    assert "minor units" in total
    assert "within 45 seconds" in html
    assert "payments.payment_declined.v1" in html
    assert "Ada Lovelace" in html, "its examples are there"


def test_an_older_version_leads_to_the_newer_and_to_its_history(staff: Client) -> None:
    html = page(staff, f"/contracts/{V1}/")

    assert "There is a newer version" in html
    assert f'href="/contracts/{V2}/"' in html
    assert "Read as an older version by" in html
    assert "has an optional field `customer_email`" in html


def test_an_unknown_event_is_not_found(staff: Client) -> None:
    assert staff.get("/contracts/orders.order_packed.v1/").status_code == 404


def test_what_is_looked_for_comes_without_the_page_around_it(staff: Client) -> None:
    html = staff.get("/contracts/?q=parcel", headers={"HX-Request": "true"}).content.decode()

    assert "<html" not in html
    assert "shipping.shipment_dispatched.v1" in html


def test_the_document_for_programs_is_there(staff: Client) -> None:
    assert set(staff.get("/contracts/asyncapi.json").json()["channels"]) == set(published)


@pytest.mark.parametrize("url", ["/contracts/", f"/contracts/{V2}/", "/contracts/asyncapi.json"])
def test_in_production_a_stranger_is_led_to_the_login(client: Client, settings: Settings, url: str) -> None:
    assert client.get(url).status_code == 302
    settings.DEBUG = True
    assert client.get(url).status_code == 200
