"""What orders does as time passes."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings

from choreography.core import clock
from choreography.dead_letters import redrives
from choreography.dead_letters.lost_retries import send_overdue
from choreography.events.timers import every, for_each
from choreography.outbox.announcing import transaction_of
from choreography.storage.retention import purge
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
    with transaction_of("orders"), Order.objects.held([order_id]) as [order]:
        services.cancel_if_unpaid(order)


@every("PURGE_SECONDS")
def purge_old_events() -> None:
    """Remove old rows of the outbox and the inbox."""
    purge("orders")


@every("REDRIVE_SECONDS")
def send_letters_again() -> None:
    """Move on what people have asked to be sent again from the dead letters."""
    redrives.go_on("orders")


@every("OVERDUE_SECONDS")
def send_overdue_retries() -> None:
    """Send again what should be back from the retry ladder and is not."""
    send_overdue("orders")
