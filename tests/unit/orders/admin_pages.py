"""People in front of the orders admin: who they are, what they fill in, what they are told."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orders.models import Order, Product
from orders.services import Pick, place_order

ADD, LIST = "/admin/orders/order/add/", "/admin/orders/order/"


def log_in(client: Client, *permissions: str) -> User:
    """Someone of the staff with just these permissions, such as ``orders.view_order``."""
    person = User.objects.create_user(f"person-{uuid4()}", is_staff=True)
    for permission in permissions:
        app, _, codename = permission.partition(".")
        person.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client.force_login(person)
    return person


def log_in_clerk(client: Client) -> User:
    """Someone who places, watches and cancels orders."""
    return log_in(client, "orders.add_order", "orders.view_order", "orders.cancel_order", "orders.view_product")


def a_product(sku: str = "TEA", price: int = 1250, currency: str = "EUR", active: bool = True) -> Product:
    return Product.objects.create(sku=sku, name=sku.title(), price=price, currency=currency, active=active)


def an_order(email: str = "ada@example.org", lines: int = 1) -> Order:
    """An order, placed without the admin."""
    order = Order(
        customer_name="Ada Example",
        customer_email=email,
        street="Main Street 1",
        city="Bonn",
        postal_code="53111",
        country="DE",
        payment_token="tok_approved",
    )
    return place_order(order, [Pick(a_product(sku=str(uuid4())), 2) for _ in range(lines)])


def filled_in(*lines: tuple[Any, Any], **changes: Any) -> dict[str, Any]:
    """The form for a new order as a browser sends it; lines are (product id, quantity)."""
    form = {
        "customer_name": "Ada Example",
        "customer_email": "ada@example.org",
        "street": "Main Street 1",
        "postal_code": "53111",
        "city": "Bonn",
        "country": "DE",
        "payment_token": "tok_approved",
        "submission": str(uuid4()),
        "lines-TOTAL_FORMS": len(lines),
        "lines-INITIAL_FORMS": 0,
    }
    for number, (product, quantity) in enumerate(lines):
        form |= {f"lines-{number}-product": product, f"lines-{number}-quantity": quantity}
    return form | changes


def complaints(response: Any) -> list[str]:
    """Every message beside a field, above the form or above the lines."""
    if response.context is None or "errors" not in response.context:
        return []
    told: list[str] = []
    for errors in response.context["errors"]:
        told += [errors] if isinstance(errors, str) else [str(message) for message in errors]
    return told


def messages_in(response: Any) -> list[str]:
    """What is told at the top of the next page."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def queries(client: Client, url: str) -> int:
    """How many queries a page takes, over all databases, once Django has filled its caches."""
    client.get(url)
    with ExitStack() as stack:
        captured: Iterable[CaptureQueriesContext] = [
            stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in connections
        ]
        assert client.get(url).status_code == 200
        return sum(len(queries) for queries in captured)
