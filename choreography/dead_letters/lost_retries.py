"""Deliveries that are not back from the retry ladder long after they were due are published again.

The ladder is the broker's, and brokers have been seen to lose what they were to return: RabbitMQ's at-least-once
dead-lettering can stall when queues change their leaders (https://github.com/rabbitmq/rabbitmq-server/issues/16652).
So a service records what it puts there, in its own database, and a timer looks for records that should be gone. If the
message was only late, the inbox absorbs the copy. While a long queue stands before the worker, what came back may be at
its end: copies would only make it longer, so none are published.
"""

from datetime import timedelta

import structlog

from choreography.broker import topology
from choreography.broker.publisher import Outgoing, broker_errors, connect, instead, reach
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import PublishRefused, Transient
from choreography.dead_letters.actions import to_the_broker
from choreography.storage.tables import ServiceTables

log = structlog.get_logger(__name__)

#: Records looked at in one tick.
_BATCH = 100
#: While more messages than these wait for the service, what is late may be among them.
_LONG_QUEUE = 100
#: Pauses between copies of one message double, as it may wait in a long queue, up to this.
_LONGEST_PAUSE = timedelta(hours=1)


def resend_lost_retries(service: str) -> int:
    """Publish lost retries to the service's inbox. A broker that is down, or a long queue, is left to the next tick.

    Returns:
        How many messages were published.
    """
    retries = ServiceTables(service).retries
    lost = list(retries.filter(due_back_at__lte=clock.now()).order_by("due_back_at")[:_BATCH])
    if not lost or _may_be_waiting(service):
        return 0
    inbox = topology.queue_name(service)
    try:
        with to_the_broker(service) as publisher:
            publisher.publish(
                [Outgoing(bytes(each.body), "", inbox, each.content_type or None, each.headers) for each in lost]
            )
    except PublishRefused as error:
        log.error("lost retries refused", service=service, messages=len(error.reasons), error=str(error))
    except Transient as error:
        log.warning("lost retries wait", service=service, error=type(error).__name__)
        return 0
    for each in lost:
        pause = min(conf().lost_retry_after * 2 ** min(each.copies, 10), _LONGEST_PAUSE)
        retries.filter(pk=each.pk, due_back_at=each.due_back_at).update(
            due_back_at=clock.now() + pause, copies=each.copies + 1
        )
    log.warning("lost retries published again", service=service, messages=len(lost))
    return len(lost)


def _may_be_waiting(service: str) -> bool:
    if instead() is not None:
        return False
    with connect() as connection:
        try:
            reach(connection)
            found = topology.look_at(connection, topology.inbox_queue(service))
        except broker_errors(connection) as error:
            log.warning("lost retries wait", service=service, error=type(error).__name__)
            return True
    return found is not None and found.messages > _LONG_QUEUE
