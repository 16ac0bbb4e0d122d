"""What payments listens to, and what it does about it."""

from collections.abc import Callable, Sequence

from choreography.events.messages import Event, Heard, Nothing
from choreography.events.registry import reacts_to
from common.money import Amount, Currency
from payments import services
from payments.events import (
    AuthorizationExpired,
    CaptureFailed,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
)
from payments.gateway import Outcome, gateway
from payments.models import Payment


class OrderPlaced(Heard):
    payment_token: str
    total: Amount
    currency: Currency


def _ask_to_authorize(events: Sequence[Event[OrderPlaced]]) -> Callable[[Event[OrderPlaced]], Outcome | None]:
    payments = Payment.objects.seen(event.subject for event in events)

    def ask(event: Event[OrderPlaced]) -> Outcome | None:
        order = event.data
        return services.ask_to_authorize(payments[event.subject], order.payment_token, order.total, order.currency)

    return ask


def _ask_to_capture(events: Sequence[Event[Nothing]]) -> Callable[[Event[Nothing]], Outcome | None]:
    payments = Payment.objects.seen(event.subject for event in events)
    return lambda event: services.ask_to_capture(payments[event.subject])


def _ask_to_release(event: Event[Nothing]) -> Outcome | None:
    return services.ask_to_release(Payment.objects.seen([event.subject])[event.subject])


@reacts_to(
    "orders.order_placed.v1",
    announces=[PaymentAuthorized, PaymentDeclined, PaymentVoided],
    calls=_ask_to_authorize,
    host=gateway,
    grouped=True,
)
def authorize_payment(events: Sequence[Event[OrderPlaced]], answers: Sequence[Outcome | None]) -> None:
    with Payment.objects.held(event.subject for event in events) as payments:
        for payment, event, answer in zip(payments, events, answers, strict=True):
            services.record_authorization(payment, event.data.total, event.data.currency, answer)


@reacts_to(
    "shipping.shipment_dispatched.v1",
    announces=[PaymentCaptured, CaptureFailed, AuthorizationExpired],
    calls=_ask_to_capture,
    host=gateway,
    grouped=True,
)
def capture_payment(events: Sequence[Event[Nothing]], answers: Sequence[Outcome | None]) -> None:
    with Payment.objects.held(event.subject for event in events) as payments:
        for payment, answer in zip(payments, answers, strict=True):
            services.record_capture(payment, answer)


@reacts_to(
    "orders.order_cancelled.v1",
    announces=[PaymentVoided, PaymentRefunded],
    calls=_ask_to_release,
    host=gateway,
)
def release_payment(event: Event[Nothing], answer: Outcome | None) -> None:
    with Payment.objects.held([event.subject]) as [payment]:
        services.record_release(payment, answer)
