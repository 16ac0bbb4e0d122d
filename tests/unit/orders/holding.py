"""An order as a reaction has it."""

from collections.abc import Iterator
from contextlib import contextmanager

from choreography.outbox.announcing import transaction_of
from orders.models import Order


@contextmanager
def holding(order: Order) -> Iterator[Order]:
    """The order, held in a transaction of its own. What is changed about it is written when the block ends."""
    with transaction_of("orders"), Order.objects.locked([order.pk]) as [held]:
        yield held
