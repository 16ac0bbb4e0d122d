"""What orders listens to, and what it does about it."""

from choreography.contracts import Event, Heard, Nothing
from choreography.registry import reacts_to
from orders import services
from orders.events import CancellationRequested, OrderCancelled, OrderCompleted


class Dispatched(Heard):
    parcel: str


class Ended(Heard):
    reason: str


class GivenBack(Heard):
    amount: int


@reacts_to("payments.payment_authorized.v1")
def record_authorization(event: Event[Nothing]) -> None:
    services.record_authorization(event.subject, event.time)


@reacts_to("payments.payment_captured.v1", announces=[OrderCompleted])
def record_capture(event: Event[Nothing]) -> None:
    services.record_capture(event.subject, event.time)


@reacts_to("payments.capture_failed.v1")
def ask_for_attention(event: Event[Ended]) -> None:
    services.ask_for_attention(event.subject, f"capture_failed: {event.data.reason}")


@reacts_to("payments.authorization_expired.v1", announces=[CancellationRequested])
def give_up_unpaid_order(event: Event[GivenBack]) -> None:
    services.record_release(event.subject, event.time, event.data.amount)
    services.cancel_if_open(event.subject, "authorization_expired")


@reacts_to("payments.payment_voided.v1", "payments.payment_refunded.v1")
def record_release(event: Event[GivenBack]) -> None:
    services.record_release(event.subject, event.time, event.data.amount)


@reacts_to("shipping.shipment_dispatched.v1")
def record_dispatch(event: Event[Dispatched]) -> None:
    services.record_dispatch(event.subject, event.time, event.data.parcel)


@reacts_to("shipping.shipment_delivered.v1", announces=[OrderCompleted])
def record_delivery(event: Event[Nothing]) -> None:
    services.record_delivery(event.subject, event.time)


@reacts_to("shipping.cancellation_refused.v1")
def resume_order(event: Event[Nothing]) -> None:
    services.resume_order(event.subject)


@reacts_to(
    "payments.payment_declined.v1",
    "shipping.shipment_failed.v1",
    "shipping.shipment_cancelled.v1",
    announces=[OrderCancelled],
)
def cancel_order(event: Event[Ended]) -> None:
    services.cancel_order(event.subject, event.data.reason, event.time)
