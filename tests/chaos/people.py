"""The people who place orders and change their minds. Their process has the orders database, and nothing else."""

from typing import Literal
from uuid import UUID

from django.db import DatabaseError, InterfaceError

from choreography.core.classification import classify
from choreography.core.errors import Transient
from tests import clerk


def place(submission: str, token: str, street: str) -> str | None:
    """Place an order, once however often the same ``submission`` comes. ``None``: the database is away, ask again."""
    from orders.models import Order, Product
    from orders.services import Pick, SubmittedTwice, place_order

    order = Order(
        submission=UUID(submission),
        customer_name="Ada Example",
        customer_email="ada@example.org",
        street=street,
        city="Bonn",
        postal_code="53111",
        country="DE",
        payment_token=token,
    )
    try:
        return str(place_order(order, [Pick(Product.objects.get(sku="TEA"), 2)]).pk)
    except SubmittedTwice as twice:
        return str(twice.order.pk)
    except (DatabaseError, InterfaceError) as error:
        _away(error)
        return None


def cancel(order_id: str) -> Literal["asked", "too late", "no such order"] | None:
    """Ask for an order to be cancelled. ``None``: the database is away, ask again."""
    from orders.models import CancellationPending, OrderFinished, UnknownOrder
    from orders.services import request_cancellation

    try:
        request_cancellation(UUID(order_id))
    except (OrderFinished, CancellationPending):
        return "too late"
    except UnknownOrder:
        return "no such order"
    except (DatabaseError, InterfaceError) as error:
        _away(error)
        return None
    return "asked"


def _away(error: Exception) -> None:
    """Raises what does not pass by itself."""
    if not issubclass(classify(error), Transient):
        raise error


if __name__ == "__main__":
    clerk.main(globals())
