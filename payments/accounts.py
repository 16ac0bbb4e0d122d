"""What payments' ledger and the provider's own records say happened, to be compared with what was announced."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from choreography import Announced, Happened, accounts_for
from payments.events import PaymentCaptured, PaymentDeclined, PaymentRefunded
from payments.gateway import gateway
from payments.models import Payment

_EVENTS: dict[str, type[Announced]] = {"captured": PaymentCaptured, "refunded": PaymentRefunded}


@accounts_for(PaymentDeclined, PaymentCaptured, PaymentRefunded)
def ledger(first: UUID, last: UUID) -> Iterator[Happened]:
    for payment in Payment.objects.filter(pk__gte=first, pk__lt=last):
        if payment.declined:
            yield Happened(payment.pk, PaymentDeclined)
        if payment.captured:
            yield Happened(payment.pk, PaymentCaptured, _money(payment.captured, payment.currency))
        if payment.refunded:
            yield Happened(payment.pk, PaymentRefunded, _money(payment.refunded, payment.currency))


@accounts_for(PaymentCaptured, PaymentRefunded)
def provider(first: UUID, last: UUID) -> Iterator[Happened]:
    moved: Counter[tuple[UUID, str, str]] = Counter()
    for movement in gateway().movements(f"{first}", f"{last}"):
        order_id = UUID(movement.key.partition(":")[0])
        moved[order_id, movement.kind, movement.currency] += movement.amount
    for (order_id, kind, currency), amount in moved.items():
        yield Happened(order_id, _EVENTS[kind], _money(amount, currency))


def _money(amount: int, currency: str) -> dict[str, int | str]:
    return {"amount": amount, "currency": currency}
