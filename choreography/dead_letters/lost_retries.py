"""Deliveries that are not back from the retry ladder long after their time are sent again.

The ladder is the broker's, and brokers have been seen to keep what they were to hand back: RabbitMQ's at-least-once
dead-lettering can stall when queues change their leaders (https://github.com/rabbitmq/rabbitmq-server/issues/16652).
So a service notes what it puts there, in its own database, and a timer looks for notes that should be gone. If the
message was only late, the inbox absorbs the copy.
"""

from datetime import timedelta

import structlog

from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import Transient
from choreography.dead_letters.actions import to_the_broker
from choreography.storage.models import alias_of, table_of

log = structlog.get_logger(__name__)

#: Notes looked at in one tick.
_AT_ONCE = 100
#: Pauses between copies of one message double, for it may wait in a long queue, up to this.
_LONGEST = timedelta(hours=1)


def send_overdue(service: str) -> int:
    """Send what is overdue to the service's inbox. A broker that is down is left to the next tick.

    Returns:
        How many messages were sent.
    """
    notes = table_of(service, "Retry").objects.using(alias_of(service))
    found = list(notes.filter(overdue_at__lte=clock.now()).order_by("overdue_at")[:_AT_ONCE])
    if not found:
        return 0
    inbox = topology.queue_name(service)
    try:
        with to_the_broker(service) as publisher:
            publisher.publish(
                [Outgoing(bytes(note.body), "", inbox, note.content_type or None, note.headers) for note in found]
            )
    except Transient as error:
        log.warning("overdue retries wait", service=service, error=type(error).__name__)
        return 0
    for note in found:
        pause = min(conf().retry_overdue * 2 ** min(note.copies, 10), _LONGEST)
        notes.filter(pk=note.pk, overdue_at=note.overdue_at).update(
            overdue_at=clock.now() + pause, copies=note.copies + 1
        )
    log.warning("overdue retries sent again", service=service, messages=len(found))
    return len(found)
