"""The shop itself: its Procfile's workers, relays and beat. Keeps all six promises of DESIGN.md, section 3."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import django

from bench import sample

_picks: list[Any] = []


@contextmanager
def opened() -> Iterator[None]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()
    from orders.models import Product
    from orders.services import Pick

    products = Product.objects.in_bulk()
    _picks[:] = [Pick(products[key], quantity) for key, _, _, _, quantity in sample.LINES]
    yield


def place() -> UUID:
    from orders.models import Order
    from orders.services import place_order

    order = Order(**sample.CUSTOMER, **sample.ADDRESS, payment_token=sample.TOKEN)
    return place_order(order, _picks).pk
