"""What payments does as time passes."""

from datetime import timedelta

from django.conf import settings

from choreography.core import clock
from choreography.dead_letters import redrives
from choreography.dead_letters.lost_retries import send_overdue
from choreography.events.timers import every, for_each
from choreography.outbox.announcing import transaction_of
from choreography.storage.retention import purge
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
    with transaction_of("payments"), Payment.objects.held([payment.order_id]) as [held]:
        services.record_expiry(held, answer)


@every("PURGE_SECONDS")
def purge_old_events() -> None:
    """Remove old rows of the outbox and the inbox."""
    purge("payments")


@every("REDRIVE_SECONDS")
def send_letters_again() -> None:
    """Move on what people have asked to be sent again from the dead letters."""
    redrives.go_on("payments")


@every("OVERDUE_SECONDS")
def send_overdue_retries() -> None:
    """Send again what should be back from the retry ladder and is not."""
    send_overdue("payments")
