"""The catalogue in the admin."""

from typing import Any

import pytest
from django.test import Client

from orders.models import Product
from tests.unit.orders.admin_pages import a_product, complaints, log_in

pytestmark = pytest.mark.django_db(databases="__all__")

ADD = "/admin/orders/product/add/"
TEA = {"sku": "TEA", "name": "Tea", "price": "1250", "currency": "EUR", "active": "on"}


@pytest.fixture
def buyer(client: Client) -> Client:
    log_in(client, "orders.add_product", "orders.view_product", "orders.change_product")
    return client


def test_a_product_is_added(buyer: Client) -> None:
    buyer.post(ADD, TEA)

    assert str(Product.objects.get()) == "Tea (€12.50)"


BAD = {
    "no price": ({"price": "0"}, "Ensure this value is greater than or equal to 1."),
    "a price that overflows": ({"price": "1000000001"}, "Ensure this value is less than or equal to 1000000000."),
    "a price in words": ({"price": "much"}, "Enter a whole number."),
    "an unknown currency": ({"currency": "XYZ"}, "XYZ is not a currency in use. Give an ISO 4217 code such as EUR."),
    "no SKU": ({"sku": ""}, "This field is required."),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_field_is_told_and_nothing_is_stored(buyer: Client, changes: dict[str, Any], message: str) -> None:
    assert complaints(buyer.post(ADD, TEA | changes)) == [message]
    assert not Product.objects.exists()


def test_a_sku_is_given_once(buyer: Client) -> None:
    a_product("TEA")

    assert complaints(buyer.post(ADD, TEA)) == ["Product with this SKU already exists."]


def test_prices_are_listed_in_their_currency(buyer: Client) -> None:
    a_product("TEA", price=1250)
    a_product("BOWL", price=45000, currency="KRW")

    page = buyer.get("/admin/orders/product/").content.decode()

    assert "€12.50" in page
    assert "₩45,000" in page
