"""What payments listens to, and what it does about it."""

from choreography.contracts import Amount, Currency, Event, Heard, Nothing
from choreography.registry import reacts_to
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


class OrderPlaced(Heard):
    payment_token: str
    total: Amount
    currency: Currency


def _ask_to_authorize(event: Event[OrderPlaced]) -> Outcome | None:
    order = event.data
    return services.ask_to_authorize(event.subject, order.payment_token, order.total, order.currency)


def _ask_to_capture(event: Event[Nothing]) -> Outcome | None:
    return services.ask_to_capture(event.subject)


def _ask_to_release(event: Event[Nothing]) -> Outcome | None:
    return services.ask_to_release(event.subject)


@reacts_to(
    "orders.order_placed.v1",
    announces=[PaymentAuthorized, PaymentDeclined, PaymentVoided],
    calls=_ask_to_authorize,
    host=gateway,
)
def authorize_payment(event: Event[OrderPlaced], answer: Outcome | None) -> None:
    services.record_authorization(event.subject, event.data.total, event.data.currency, answer)


@reacts_to(
    "shipping.shipment_dispatched.v1",
    announces=[PaymentCaptured, CaptureFailed, AuthorizationExpired],
    calls=_ask_to_capture,
    host=gateway,
)
def capture_payment(event: Event[Nothing], answer: Outcome | None) -> None:
    services.record_capture(event.subject, answer)


@reacts_to(
    "orders.order_cancelled.v1",
    announces=[PaymentVoided, PaymentRefunded],
    calls=_ask_to_release,
    host=gateway,
)
def release_payment(event: Event[Nothing], answer: Outcome | None) -> None:
    services.record_release(event.subject, answer)
