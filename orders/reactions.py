"""What orders listens to, and what it does about it."""

from collections.abc import Sequence

from choreography.events.messages import Event, Heard, Nothing
from choreography.events.registry import reacts_to
from orders import services
from orders.events import CancellationRequested, OrderCancelled, OrderCompleted
from orders.models import Order


class Dispatched(Heard):
    parcel: str


class Ended(Heard):
    reason: str


class GivenBack(Heard):
    amount: int


@reacts_to("payments.payment_authorized.v1", grouped=True)
def record_authorization(events: Sequence[Event[Nothing]]) -> None:
    with Order.objects.held(event.subject for event in events) as orders:
        for order, event in zip(orders, events, strict=True):
            services.record_authorization(order, event.time)


@reacts_to("payments.payment_captured.v1", announces=[OrderCompleted], grouped=True)
def record_capture(events: Sequence[Event[Nothing]]) -> None:
    with Order.objects.held(event.subject for event in events) as orders:
        for order, event in zip(orders, events, strict=True):
            services.record_capture(order, event.time)


@reacts_to("payments.capture_failed.v1")
def ask_for_attention(event: Event[Ended]) -> None:
    with Order.objects.held([event.subject]) as [order]:
        services.ask_for_attention(order, f"capture_failed: {event.data.reason}")


@reacts_to("payments.authorization_expired.v1", announces=[CancellationRequested])
def give_up_unpaid_order(event: Event[GivenBack]) -> None:
    with Order.objects.held([event.subject]) as [order]:
        services.record_release(order, event.time, event.data.amount)
        services.cancel_if_open(order, "authorization_expired")


@reacts_to("payments.payment_voided.v1", "payments.payment_refunded.v1")
def record_release(event: Event[GivenBack]) -> None:
    with Order.objects.held([event.subject]) as [order]:
        services.record_release(order, event.time, event.data.amount)


@reacts_to("shipping.shipment_dispatched.v1", grouped=True)
def record_dispatch(events: Sequence[Event[Dispatched]]) -> None:
    with Order.objects.held(event.subject for event in events) as orders:
        for order, event in zip(orders, events, strict=True):
            services.record_dispatch(order, event.time, event.data.parcel)


@reacts_to("shipping.shipment_delivered.v1", announces=[OrderCompleted], grouped=True)
def record_delivery(events: Sequence[Event[Nothing]]) -> None:
    with Order.objects.held(event.subject for event in events) as orders:
        for order, event in zip(orders, events, strict=True):
            services.record_delivery(order, event.time)


@reacts_to("shipping.cancellation_refused.v1")
def resume_order(event: Event[Nothing]) -> None:
    with Order.objects.held([event.subject]) as [order]:
        order.resume()


@reacts_to(
    "payments.payment_declined.v1",
    "shipping.shipment_failed.v1",
    "shipping.shipment_cancelled.v1",
    announces=[OrderCancelled],
)
def cancel_order(event: Event[Ended]) -> None:
    with Order.objects.held([event.subject]) as [order]:
        services.cancel_order(order, event.data.reason, event.time)
