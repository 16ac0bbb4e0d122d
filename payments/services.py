"""What payments can do: authorize, capture, release, let a hold expire.

Each comes in two parts. ``ask_…`` calls the provider, outside any transaction, under an idempotency key made of the
order and the operation, so it may be repeated. ``record_…`` enters the answer into the ledger and announces it, inside
the reaction's transaction, and raises ``Conflict`` if the ledger has changed since the call: then both parts run again.

The first takes a payment as it was before the call, the second one that is locked (``Payment.objects.locked``). Neither
loads nor saves.
"""

from collections.abc import Callable
from uuid import UUID

from choreography.core.errors import Conflict, Unusable
from choreography.outbox.announcing import announce
from common.texts import as_code
from payments.events import (
    AuthorizationExpired,
    CaptureFailed,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
)
from payments.gateway import Authorized, Captured, Declined, Outcome, Refunded, Refused, Voided, gateway
from payments.models import Entry, Payment


class NothingHeld(Unusable):
    """A parcel was sent for an order that payments never authorized. No retry will change that."""


def ask_to_authorize(payment: Payment, token: str, amount: int, currency: str) -> Outcome | None:
    """Hold the amount, or give it back if the order was cancelled before payments could say so.

    Returns:
        ``Authorized`` or ``Declined``; for a cancelled order ``Voided``, or ``None`` if nothing was ever held.
    """
    key = _key(payment.order_id, "authorize")
    if payment.order_cancelled:
        earlier = gateway().find(key)
        return _void(payment.order_id, earlier.reference) if isinstance(earlier, Authorized) else None
    return _ask(key, lambda: gateway().authorize(key=key, token=token, amount=amount, currency=currency))


def record_authorization(payment: Payment, amount: int, currency: str, answer: Outcome | None) -> None:
    """Enter what came of asking to authorize.

    Raises:
        Conflict: the order was cancelled while the provider was asked.
    """
    order_id = payment.order_id
    payment.asked, payment.currency = amount, currency
    match answer:
        case Authorized() | Declined() if payment.order_cancelled:
            raise Conflict(f"order {order_id} was cancelled while its payment was being authorized")
        case Authorized():
            payment.reference = answer.reference
            payment.enter(Entry.Kind.AUTHORIZED, answer.amount, _key(order_id, "authorize"))
            announce(PaymentAuthorized(amount=answer.amount, currency=currency), subject=order_id)
        case Declined():
            payment.declined = as_code(answer.reason)
            announce(PaymentDeclined(reason=payment.declined), subject=order_id)
        case Voided():
            payment.reference = answer.reference
            payment.enter(Entry.Kind.AUTHORIZED, answer.amount, _key(order_id, "authorize"))
            payment.enter(Entry.Kind.VOIDED, answer.amount, _key(order_id, "void"))
            announce(PaymentVoided(amount=answer.amount, currency=currency), subject=order_id)
        case None:
            announce(PaymentVoided(amount=0, currency=currency), subject=order_id)
        case _:
            raise Conflict(f"the provider answered {answer!r} to an authorization")


def ask_to_capture(payment: Payment) -> Outcome | None:
    """Take what is held, the parcel being on its way.

    Returns:
        ``Captured`` or ``Refused``; ``Voided`` where the hold was let go of before; ``None`` for a cancelled order.

    Raises:
        NothingHeld: payments never authorized this order.
    """
    order_id = payment.order_id
    if payment.order_cancelled:
        return None
    if not payment.authorized:
        raise NothingHeld(f"payments has authorized nothing for order {order_id}")
    key = _key(order_id, "capture")
    answer = _ask(key, lambda: gateway().capture(key=key, reference=payment.reference, amount=payment.authorized))
    if answer == Refused("already_voided"):
        return gateway().find(_key(order_id, "void")) or answer
    return answer


def record_capture(payment: Payment, answer: Outcome | None) -> None:
    """Enter what came of asking to capture.

    Raises:
        Conflict: the order is being cancelled at this moment.
    """
    order_id = payment.order_id
    match answer:
        case Captured():
            payment.enter(Entry.Kind.CAPTURED, answer.amount, _key(order_id, "capture"))
            announce(PaymentCaptured(amount=answer.amount, currency=payment.currency), subject=order_id)
        case Voided() if not payment.order_cancelled:
            # Whoever let go of the hold may have died before it was entered.
            _enter_expiry(payment, answer)
            _refuse_capture(payment, "already_voided")
        case Refused() if not payment.order_cancelled:
            _refuse_capture(payment, answer.reason)
        case _ if not payment.order_cancelled:
            raise Conflict(f"the provider answered {answer!r} to a capture")


def ask_to_release(payment: Payment) -> Outcome | None:
    """Let go of what is held or give back what was taken. ``None``: there is nothing to release now."""
    if payment.held:
        return _void(payment.order_id, payment.reference)
    if payment.kept:
        key = _key(payment.order_id, "refund")
        return _ask(key, lambda: gateway().refund(key=key, reference=payment.reference, amount=payment.kept))
    return None


def record_release(payment: Payment, answer: Outcome | None) -> None:
    """Enter what came of asking to release, and remember that the order is cancelled.

    Where payments has not answered yet, or not even heard of the order, remembering is all: whatever an
    authorization still brings is given back, and announced, by ``record_authorization``.

    Raises:
        Conflict: the ledger has changed, or the provider has: money moves at this moment.
    """
    order_id = payment.order_id
    payment.order_cancelled = True
    match answer:
        case None if payment.held == payment.kept == 0:
            if payment.authorized:
                announce(PaymentVoided(amount=0, currency=payment.currency), subject=order_id)
        case Voided() if payment.held == answer.amount:
            payment.enter(Entry.Kind.VOIDED, answer.amount, _key(order_id, "void"))
            announce(PaymentVoided(amount=answer.amount, currency=payment.currency), subject=order_id)
        case Refunded() if payment.kept == answer.amount:
            payment.enter(Entry.Kind.REFUNDED, answer.amount, _key(order_id, "refund"))
            announce(PaymentRefunded(amount=answer.amount, currency=payment.currency), subject=order_id)
        case _:
            raise Conflict(f"the money of order {order_id} is moving: {answer!r} does not fit the ledger")


def ask_to_let_go(payment: Payment) -> Outcome:
    """Let go of a hold that has grown too old."""
    return _void(payment.order_id, payment.reference)


def record_expiry(payment: Payment, answer: Outcome) -> None:
    """Enter that a hold has expired, unless it was used or let go of meanwhile."""
    if isinstance(answer, Voided):
        _enter_expiry(payment, answer)


def _enter_expiry(payment: Payment, answer: Voided) -> None:
    """Unless it is entered already."""
    if payment.held == answer.amount:
        payment.enter(Entry.Kind.VOIDED, answer.amount, _key(payment.order_id, "void"))
        announce(AuthorizationExpired(amount=answer.amount, currency=payment.currency), subject=payment.order_id)


def _refuse_capture(payment: Payment, reason: str) -> None:
    payment.capture_refused = as_code(reason)
    announce(CaptureFailed(reason=payment.capture_refused), subject=payment.order_id)


def _key(order_id: UUID, operation: str) -> str:
    return f"{order_id}:{operation}"


def _ask(key: str, call: Callable[[], Outcome]) -> Outcome:
    """Ask what became of a call before making it: an earlier attempt may have died before it heard the answer."""
    earlier = gateway().find(key)
    return call() if earlier is None else earlier


def _void(order_id: UUID, reference: str) -> Outcome:
    key = _key(order_id, "void")
    return _ask(key, lambda: gateway().void(key=key, reference=reference))
