"""What payments does as time passes."""

from datetime import timedelta

from django.conf import settings

from choreography.core import clock
from choreography.events.timers import every, for_each
from choreography.outbox.announcing import transaction_of
from payments import services
from payments.models import Payment

#: Payments looked at in one tick.
_AT_ONCE = 100


@every("EXPIRE_AUTHORIZATIONS_SECONDS")
def expire_authorizations() -> None:
    """Let go of holds that have grown too old. What the provider can't do now is left to the next tick."""
    moment = clock.now() - timedelta(seconds=settings.AUTHORIZATION_LIFETIME_SECONDS)
    for_each(Payment.objects.authorized_before(moment)[:_AT_ONCE], _expire)


def _expire(payment: Payment) -> None:
    answer = services.ask_to_let_go(payment)
    with transaction_of("payments"), Payment.objects.locked([payment.order_id]) as [locked]:
        services.record_expiry(locked, answer)
