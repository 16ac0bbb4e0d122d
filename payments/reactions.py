"""What payments listens to, and what it does about it."""

from choreography import Event, Heard, Nothing, compensates, ends_flow, expect, never_both, reacts_to, upcasts
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


@upcasts("orders.order_placed.v1")
def order_placed_v1(old: OrderPlaced) -> OrderPlaced:
    """What payments reads is the same in both versions."""
    return old


def _ask_to_authorize(payment: Payment, event: Event[OrderPlaced]) -> Outcome | None:
    return services.ask_to_authorize(payment, event.data.payment_token, event.data.total, event.data.currency)


@reacts_to(
    "orders.order_placed.v2",
    rows=Payment.objects,
    ask=_ask_to_authorize,
    external_system=gateway,
    announces=[PaymentAuthorized, PaymentDeclined, PaymentVoided],
)
def authorize_payment(payment: Payment, event: Event[OrderPlaced], answer: Outcome | None) -> None:
    services.record_authorization(payment, event.data.total, event.data.currency, answer)


@reacts_to(
    "shipping.shipment_dispatched.v1",
    rows=Payment.objects,
    ask=lambda payment, event: services.ask_to_capture(payment),
    external_system=gateway,
    announces=[PaymentCaptured, CaptureFailed, AuthorizationExpired],
)
def capture_payment(payment: Payment, event: Event[Nothing], answer: Outcome | None) -> None:
    services.record_capture(payment, answer)


@reacts_to(
    "orders.order_cancelled.v1",
    rows=Payment.objects,
    ask=lambda payment, event: services.ask_to_release(payment),
    external_system=gateway,
    announces=[PaymentVoided, PaymentRefunded],
)
def release_payment(payment: Payment, event: Event[Nothing], answer: Outcome | None) -> None:
    services.record_release(payment, answer)


# --- What must follow -------------------------------------------------------------------------------------------------

expect("orders.order_placed.v2", one_of=[PaymentAuthorized, PaymentDeclined, PaymentVoided], within=45)
expect(
    "shipping.shipment_dispatched.v1",
    one_of=[PaymentCaptured, CaptureFailed, AuthorizationExpired, PaymentVoided],
    within=45,
)
expect(
    "orders.order_cancelled.v1",
    one_of=[PaymentVoided, PaymentRefunded, PaymentDeclined, AuthorizationExpired],
    within=45,
)

ends_flow(CaptureFailed, needs_person=True)
never_both(PaymentAuthorized, PaymentDeclined)
compensates(PaymentVoided, PaymentRefunded, AuthorizationExpired)
