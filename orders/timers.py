"""What orders does as time passes."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings

from choreography.core import clock
from choreography.events.timers import every, for_each
from choreography.outbox.announcing import transaction_of
from orders import services
from orders.models import Order

#: Orders looked at in one tick.
_AT_ONCE = 500


@every("CANCEL_UNPAID_ORDERS_SECONDS")
def cancel_unpaid_orders() -> None:
    """Ask for orders to be cancelled that nobody paid for in time."""
    moment = clock.now() - timedelta(seconds=settings.UNPAID_ORDER_LIFETIME_SECONDS)
    for_each(Order.objects.unpaid_since(moment).values_list("pk", flat=True)[:_AT_ONCE], _cancel)


def _cancel(order_id: UUID) -> None:
    with transaction_of("orders"), Order.objects.locked([order_id]) as [order]:
        services.cancel_if_unpaid(order)
