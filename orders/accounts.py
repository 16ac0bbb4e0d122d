"""What orders' rows say happened, to be compared with what was announced."""

from collections.abc import Iterator
from uuid import UUID

from choreography import Happened, accounts_for
from orders.events import OrderCancelled, OrderCompleted, OrderPlacedV2
from orders.models import Order


@accounts_for(OrderPlacedV2, OrderCompleted, OrderCancelled)
def orders(first: UUID, last: UUID) -> Iterator[Happened]:
    for order in Order.objects.filter(pk__gte=first, pk__lt=last):
        money: dict[str, int | str] = {"total": order.total, "currency": order.currency}
        yield Happened(order.pk, OrderPlacedV2, money)
        if order.is_completed:
            yield Happened(order.pk, OrderCompleted, money)
        if order.is_cancelled:
            yield Happened(order.pk, OrderCancelled)
