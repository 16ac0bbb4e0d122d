"""What orders listens to, and what it does about it."""

from choreography import Event, Heard, Nothing, compensates, ends_flow, expect, never_both, reacts_to
from common.money import Amount
from common.texts import Code
from orders import services
from orders.events import CancellationRequested, OrderCancelled, OrderCompleted
from orders.models import Order


class Dispatched(Heard):
    parcel: Code


class Ended(Heard):
    reason: Code


class GivenBack(Heard):
    amount: Amount


@reacts_to("payments.payment_authorized.v1", rows=Order.objects)
def record_authorization(order: Order, event: Event[Nothing]) -> None:
    services.record_authorization(order, event.time)


@reacts_to("payments.payment_captured.v1", rows=Order.objects, announces=[OrderCompleted])
def record_capture(order: Order, event: Event[Nothing]) -> None:
    services.record_capture(order, event.time)


@reacts_to("payments.capture_failed.v1", rows=Order.objects)
def ask_for_attention(order: Order, event: Event[Ended]) -> None:
    services.ask_for_attention(order, f"capture_failed: {event.data.reason}")


@reacts_to("payments.authorization_expired.v1", rows=Order.objects, announces=[CancellationRequested])
def give_up_unpaid_order(order: Order, event: Event[GivenBack]) -> None:
    services.record_release(order, event.time, event.data.amount)
    services.cancel_if_open(order, "authorization_expired")


@reacts_to("payments.payment_voided.v1", "payments.payment_refunded.v1", rows=Order.objects)
def record_release(order: Order, event: Event[GivenBack]) -> None:
    services.record_release(order, event.time, event.data.amount)


@reacts_to("shipping.shipment_dispatched.v1", rows=Order.objects)
def record_dispatch(order: Order, event: Event[Dispatched]) -> None:
    services.record_dispatch(order, event.time, event.data.parcel)


@reacts_to("shipping.shipment_delivered.v1", rows=Order.objects, announces=[OrderCompleted])
def record_delivery(order: Order, event: Event[Nothing]) -> None:
    services.record_delivery(order, event.time)


@reacts_to("shipping.cancellation_refused.v1", rows=Order.objects)
def resume_order(order: Order, event: Event[Nothing]) -> None:
    order.resume()


@reacts_to(
    "payments.payment_declined.v1",
    "shipping.shipment_failed.v1",
    "shipping.shipment_cancelled.v1",
    rows=Order.objects,
    announces=[OrderCancelled],
)
def cancel_order(order: Order, event: Event[Ended]) -> None:
    services.cancel_order(order, event.data.reason, event.time)


# --- What must follow, and how an order ends ------------------------------------------------------------------------

expect("payments.payment_declined.v1", one_of=[OrderCancelled], within=45)
expect("shipping.shipment_failed.v1", one_of=[OrderCancelled], within=45)
expect("shipping.shipment_cancelled.v1", one_of=[OrderCancelled], within=45)
expect("payments.authorization_expired.v1", one_of=[CancellationRequested, OrderCancelled], within=45)
expect("shipping.shipment_delivered.v1", one_of=[OrderCompleted, "payments.capture_failed.v1"], within=45)

ends_flow(OrderCompleted)
ends_flow(OrderCancelled)
never_both(OrderCompleted, OrderCancelled)
compensates(CancellationRequested, OrderCancelled)
