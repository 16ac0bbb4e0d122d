"""Shipments in the admin: to be looked at, never to be changed by hand."""

from uuid import uuid4

import pytest
from django.test import Client

from choreography.core import clock
from shipping.models import Shipment
from tests.unit.orders.admin_pages import log_in, queries

pytestmark = pytest.mark.django_db(databases="__all__")

LIST = "/admin/shipping/shipment/"


@pytest.fixture
def packer(client: Client) -> Client:
    log_in(client, "shipping.view_shipment")
    return client


def a_shipment() -> Shipment:
    """On its way."""
    return Shipment.objects.create(
        order_id=uuid4(),
        state=Shipment.State.DISPATCHED,
        parcel=f"parcel-{uuid4()}",
        name="Ada Example",
        street="Main Street 1",
        city="Bonn",
        country="DE",
        dispatched_at=clock.now(),
    )


def test_a_shipment_shows_its_state_its_parcel_and_where_it_goes(packer: Client) -> None:
    shipment = a_shipment()

    page = packer.get(f"{LIST}{shipment.pk}/change/").content.decode()

    for text in ("dispatched", shipment.parcel, "Main Street 1", "Bonn"):
        assert text in page


def test_the_list_finds_by_number_and_parcel(packer: Client) -> None:
    shipment, other = a_shipment(), a_shipment()

    for term in (shipment.order_id.hex[-8:], shipment.parcel):
        page = packer.get(f"{LIST}?q={term}").content.decode()
        assert shipment.parcel in page
        assert other.parcel not in page


def test_nobody_changes_a_shipment_by_hand(packer: Client) -> None:
    shipment = a_shipment()

    assert packer.get(f"{LIST}add/").status_code == 403
    assert packer.post(f"{LIST}{shipment.pk}/change/", {"state": "delivered"}).status_code == 403
    assert packer.post(f"{LIST}{shipment.pk}/delete/", {"post": "yes"}).status_code == 403


def test_without_the_permission_nobody_sees_it(client: Client) -> None:
    log_in(client, "orders.view_order")

    assert client.get(LIST).status_code == 403


def test_the_list_takes_as_many_queries_for_many_as_for_one(packer: Client) -> None:
    a_shipment()
    for_one = queries(packer, LIST)
    for _ in range(5):
        a_shipment()

    assert queries(packer, LIST) == for_one
