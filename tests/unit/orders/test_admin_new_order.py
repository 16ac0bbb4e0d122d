"""Placing an order in the admin: one form makes one order, and whatever is wrong is said and changes nothing."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from choreography.storage.tables import ServiceTables
from orders import services
from orders.models import MAX_PRICE, Order, OrderLine, Product
from tests.unit.orders.admin_pages import (
    ADD,
    a_product,
    complaints,
    filled_in,
    log_in,
    log_in_clerk,
    messages_in,
)

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture
def clerk(client: Client) -> Client:
    log_in_clerk(client)
    return client


def test_a_filled_in_form_places_one_order(clerk: Client) -> None:
    tea, cup = a_product("TEA", price=1250), a_product("CUP", price=790)

    response = clerk.post(ADD, filled_in((tea.pk, 2), (cup.pk, 1)))

    order = Order.objects.get()
    assert (order.total, order.currency, order.status) == (3290, "EUR", "placed")
    assert sorted(OrderLine.objects.values_list("sku", "quantity")) == [("CUP", 1), ("TEA", 2)]
    assert response.headers["Location"] == f"/admin/orders/order/{order.pk}/change/"
    assert messages_in(response) == [f"Order {order.number} is placed."]


def test_placing_an_order_announces_it_once_and_notes_who_did_it(clerk: Client) -> None:
    clerk.post(ADD, filled_in((a_product().pk, 1)))

    assert [event.event_type for event in ServiceTables("orders").outbox.filter(fact_id=None)] == [
        "orders.order_placed.v2"
    ]
    assert LogEntry.objects.get().object_id == str(Order.objects.get().pk)


def test_two_lines_of_one_product_become_one(clerk: Client) -> None:
    tea = a_product()

    clerk.post(ADD, filled_in((tea.pk, 2), (tea.pk, 3)))

    assert OrderLine.objects.get().quantity == 5


def test_an_untouched_or_removed_line_is_no_line(clerk: Client) -> None:
    tea = a_product()

    clerk.post(ADD, filled_in((tea.pk, 2), ("", 1), ("", "nonsense"), **{"lines-2-DELETE": "on"}))

    assert OrderLine.objects.get().quantity == 2


BAD_FIELDS = {
    "a name without a letter": ({"customer_name": "--"}, "Write it on one line, with letters or digits."),
    "no e-mail": ({"customer_email": "ada"}, "Enter a valid email address."),
    "a street of two lines": ({"street": "Main\nStreet"}, "Write it on one line, with letters or digits."),
    "no city": ({"city": " "}, "This field is required."),
    "a street without end": (
        {"street": "x" * 201},
        "Ensure this value has at most 200 characters (it has 201).",
    ),
    "a postal code of signs": ({"postal_code": "<b>"}, "Letters, digits, spaces and hyphens only."),
    "a country that is none": ({"country": "XX"}, "XX is not a country. Pick one from the list."),
    "no country": ({"country": ""}, "This field is required."),
    "a payment token of signs": ({"payment_token": "tok approved"}, "Letters, digits and _ only."),
}


@pytest.mark.parametrize(("changes", "message"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_bad_field_is_told_and_nothing_is_placed(clerk: Client, changes: dict[str, str], message: str) -> None:
    response = clerk.post(ADD, filled_in((a_product().pk, 1), **changes))

    assert complaints(response) == [message]
    assert not Order.objects.exists()


@pytest.mark.parametrize("quantity", [0, -1, 1001, 10**30, "many", "1.5", ""])
def test_a_bad_quantity_is_told_and_nothing_is_placed(clerk: Client, quantity: Any) -> None:
    response = clerk.post(ADD, filled_in((a_product().pk, quantity)))

    assert complaints(response) == ["Give a whole number from 1 to 1000."]
    assert not Order.objects.exists()


def refused(clerk: Client, *lines: tuple[Any, Any]) -> list[str]:
    """What is told about lines that make no order."""
    response = clerk.post(ADD, filled_in(*lines))
    assert not Order.objects.exists()
    assert not ServiceTables("orders").outbox.exists()
    return complaints(response)


def test_an_order_without_lines_is_refused(clerk: Client) -> None:
    assert refused(clerk, ("", 1)) == ["Add at least one line: an order needs something to ship."]


def test_a_line_without_a_product_is_refused(clerk: Client) -> None:
    assert refused(clerk, ("", 2)) == ["Pick a product."]


@pytest.mark.parametrize("product", [999_999, "tea", 10**30])
def test_a_product_that_is_none_is_refused(clerk: Client, product: Any) -> None:
    assert refused(clerk, (product, 2)) == ["There is no such product. Pick one from the list."]


def test_a_product_that_is_not_sold_is_refused(clerk: Client) -> None:
    samovar = a_product("SAMOVAR", active=False)

    assert refused(clerk, (samovar.pk, 1)) == ["Samovar is not sold any more. Remove the line."]


def test_two_currencies_are_refused(clerk: Client) -> None:
    tea, bowl = a_product("TEA"), a_product("BOWL", currency="KRW")

    assert refused(clerk, (tea.pk, 1), (bowl.pk, 1)) == [
        "The lines are in EUR, KRW. Place one order for each currency."
    ]


def test_a_currency_that_is_none_is_refused(clerk: Client) -> None:
    tea = a_product(currency="XYZ")

    assert refused(clerk, (tea.pk, 1)) == ["Tea is priced in XYZ, which is not a currency in use. Remove the line."]


def test_a_total_too_large_is_refused(clerk: Client) -> None:
    gold = a_product("GOLD", price=MAX_PRICE)

    assert refused(clerk, (gold.pk, 101)) == ["The total is more than €1,000,000,000.00. Split the order."]


def test_two_lines_that_together_are_too_many_are_refused(clerk: Client) -> None:
    tea = a_product()

    assert refused(clerk, (tea.pk, 1000), (tea.pk, 1)) == ["Tea: the quantity is 1001. Give a number from 1 to 1000."]


def test_more_lines_than_anyone_fills_in_are_refused(clerk: Client) -> None:
    products = [a_product(f"TEA{number}").pk for number in range(services.MAX_LINES + 1)]

    assert refused(clerk, *((product, 1) for product in products)) == ["At most 100 lines."]


def test_the_same_form_sent_again_leads_to_the_order_it_made(clerk: Client) -> None:
    form = filled_in((a_product().pk, 1))
    first = clerk.post(ADD, form)

    second = clerk.post(ADD, form | {"city": "Cologne"})

    order = Order.objects.get()
    assert order.city == "Bonn"
    assert second.headers["Location"] == first.headers["Location"]
    assert messages_in(second)[-1] == f"This form was sent already: it made order {order.number}."


def test_the_same_form_leads_there_even_if_it_would_be_refused_by_now(clerk: Client) -> None:
    form = filled_in((a_product().pk, 1))
    first = clerk.post(ADD, form)
    Product.objects.update(active=False)

    assert clerk.post(ADD, form).headers["Location"] == first.headers["Location"]


@pytest.mark.parametrize("mark", ["", "garbage"])
def test_a_form_without_its_mark_places_nothing_and_gets_a_new_mark(clerk: Client, mark: str) -> None:
    form = filled_in((a_product().pk, 1), submission=mark)

    response = clerk.post(ADD, form)

    assert complaints(response) == [
        "This form came without its mark, so it can't be told whether it was sent before. "
        "Nothing was stored. It has a new mark now: save it again."
    ]
    assert not Order.objects.exists()
    clerk.post(ADD, form | {"submission": response.context["adminform"].form["submission"].value()})
    assert Order.objects.exists()


def test_each_form_has_a_mark_of_its_own(clerk: Client) -> None:
    marks = {str(clerk.get(ADD).context["adminform"].form["submission"].value()) for _ in range(3)}

    assert len(marks) == 3


def test_the_form_offers_the_test_tokens_and_addresses(clerk: Client) -> None:
    page = clerk.get(ADD).content.decode()

    assert '<option value="tok_declined_funds">Declined: insufficient funds.</option>' in page
    assert '<option value="undeliverable">' in page


def test_only_products_that_are_sold_can_be_picked(clerk: Client) -> None:
    a_product("TEA-1")
    a_product("TEA-2", active=False)
    a_product("CUP")
    field = {"app_label": "orders", "model_name": "orderline", "field_name": "product"}

    answer = clerk.get("/admin/autocomplete/", {"term": "tea-", **field}).json()

    assert [found["text"] for found in answer["results"]] == ["Tea-1 (€12.50)"]


def test_without_the_permission_nobody_gets_the_form_or_places_an_order(client: Client) -> None:
    log_in(client, "orders.view_order")
    tea = a_product()

    assert client.get(ADD).status_code == 403
    assert client.post(ADD, filled_in((tea.pk, 1))).status_code == 403
    assert not Order.objects.exists()
    assert ADD not in client.get("/admin/orders/order/").content.decode()


def test_who_may_only_place_orders_is_told_that_it_worked(client: Client) -> None:
    log_in(client, "orders.add_order")

    response = client.post(ADD, filled_in((a_product().pk, 1)), follow=True)

    assert response.redirect_chain == [("/admin/", 302)]
    assert "is placed." in response.content.decode()


def test_a_product_with_orders_can_not_be_deleted(client: Client) -> None:
    log_in(client, "orders.view_product", "orders.delete_product", "orders.add_order")
    tea = a_product()
    client.post(ADD, filled_in((tea.pk, 1)))

    client.post(f"/admin/orders/product/{tea.pk}/delete/", {"post": "yes"})

    assert Product.objects.filter(pk=tea.pk).exists()


def test_a_stranger_is_asked_to_log_in(client: Client) -> None:
    response = client.post(ADD, filled_in(submission=str(uuid4())))

    assert response.headers["Location"].startswith("/admin/login/")
