"""The exchanges and queues, all derived from the reactions in the code.

======================  ==========================  =====================================================
``orders.x.v1``         fanout exchange             an event type
``payments``            queue                       a service's inbox, bound to what it reacts to
``payments.timers``     direct exchange and queue   ticks of the service's timers
``payments.retry.5s``   queue with a TTL            waits for another attempt, then returns to the inbox
``payments.dlx``        fanout exchange             takes what the worker rejects or the broker gives up
``payments.dead``       queue behind it             read by the same worker, into the dead-letter table
======================  ==========================  =====================================================

All names carry the namespace where one is set.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kombu import Connection, Exchange, Queue, binding

from choreography.core.conf import conf
from choreography.events.messages import published
from choreography.events.registry import reactions

#: The header in which the relay says when it published an event.
PUBLISHED = "x-choreography-published"


def exchange_name(event_type: str) -> str:
    """The exchange an event type is announced on."""
    return conf().namespace + event_type


def queue_name(service: str) -> str:
    """A service's inbox."""
    return conf().namespace + service


def retry_queue_name(service: str, seconds: int) -> str:
    """One rung of a service's retry ladder: ``payments.retry.5m``."""
    rung = f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"
    return f"{queue_name(service)}.retry.{rung}"


def dead_queue_name(service: str) -> str:
    """What nobody could handle: ``payments.dead``."""
    return f"{queue_name(service)}.dead"


def event_exchange(event_type: str) -> Exchange:
    return Exchange(exchange_name(event_type), type="fanout", durable=True)


def timer_exchange(service: str) -> Exchange:
    return Exchange(f"{queue_name(service)}.timers", type="direct", durable=True)


def dead_letter_exchange(service: str) -> Exchange:
    return Exchange(f"{queue_name(service)}.dlx", type="fanout", durable=True)


def event_types_heard_by(service: str) -> list[str]:
    """What a service subscribes to, sorted."""
    return sorted({event_type for reaction in reactions(service) for event_type in reaction.event_types})


def inbox_queue(service: str) -> Queue:
    """A service's inbox. ``alias`` lets a worker say ``-Q payments`` under any namespace."""
    return Queue(
        queue_name(service),
        alias=service,
        routing_key=queue_name(service),  # else Celery binds it to its own default exchange as well
        bindings=[
            *(binding(event_exchange(event_type)) for event_type in event_types_heard_by(service)),
        ],
        queue_arguments=_arguments_of_a_read_queue(service),
    )


def timer_queue(service: str) -> Queue:
    """Where a service's ticks arrive. Apart from its inbox, so that time acts however much waits there."""
    return Queue(
        f"{queue_name(service)}.timers",
        alias=f"{service}.timers",
        routing_key=f"{queue_name(service)}.timers",
        bindings=[binding(timer_exchange(service), routing_key=service)],
        queue_arguments=_arguments_of_a_read_queue(service),
    )


def dead_queue(service: str) -> Queue:
    """What nobody could handle, on its way into the dead-letter table."""
    return Queue(
        dead_queue_name(service),
        alias=f"{service}.dead",
        routing_key=dead_queue_name(service),
        bindings=[binding(dead_letter_exchange(service))],
        # The last stop: there is nowhere to go from here, so the broker (4.0: after 20 times) must never give up.
        queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 10**6},
    )


def retry_queues(service: str) -> list[Queue]:
    """The ladder. No worker consumes it: the TTL moves a message back to the inbox."""
    return [
        Queue(
            retry_queue_name(service, seconds),
            routing_key=retry_queue_name(service, seconds),
            queue_arguments={
                "x-queue-type": "quorum",
                "x-message-ttl": seconds * 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue_name(service),
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
        for seconds in conf().retry_rungs
    ]


def worker_queues(service: str) -> list[Queue]:
    """What a service's worker consumes."""
    return [inbox_queue(service), timer_queue(service), dead_queue(service)]


def queues(service: str) -> list[Queue]:
    """Every queue of a service, in an order in which they can be declared."""
    return [*worker_queues(service), *retry_queues(service)]


def exchanges(service: str) -> list[Exchange]:
    """The exchanges only this service writes to."""
    announced = sorted(event_type for event_type, event in published.items() if event.service == service)
    return [event_exchange(event_type) for event_type in announced]


def _arguments_of_a_read_queue(service: str) -> dict[str, Any]:
    """A worker reads it, and what is refused or given up goes to the dead letters."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": conf().delivery_limit,
        "x-dead-letter-exchange": dead_letter_exchange(service).name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


class Waiting(NamedTuple):
    """What a queue holds, and who reads it."""

    messages: int
    """Those that are ready: no consumer has them."""
    consumers: int


def look_at(connection: Connection, queue: Queue) -> Waiting | None:
    """A queue as it is on the broker; ``None`` if it is not there. Nothing is declared.

    Raises:
        connection.connection_errors: the broker can't be reached.
    """
    try:
        with connection.channel() as channel:
            found: Any = queue(channel).queue_declare(passive=True)
    except connection.channel_errors:
        return None
    return Waiting(found.message_count, found.consumer_count)


def declare(connection: Connection, services: Iterable[str] | None = None) -> None:
    """Make the broker have all of it. Safe to repeat; what is there already stays.

    Raises:
        connection.connection_errors: the broker can't be reached.
        connection.channel_errors: a queue of that name exists with other arguments.
    """
    with connection.channel() as channel:
        for service in conf().services if services is None else services:
            for exchange in exchanges(service):
                exchange(channel).declare()
            for queue in queues(service):
                queue(channel).declare()


def delete(connection: Connection) -> None:
    """Remove all of it, with every message in it. For test runs, which have a namespace of their own."""
    with connection.channel() as channel:
        for service in conf().services:
            for queue in queues(service):
                queue(channel).delete()
            own = [*exchanges(service), timer_exchange(service), dead_letter_exchange(service)]
            heard = [event_exchange(event_type) for event_type in event_types_heard_by(service)]
            for exchange in {exchange.name: exchange for exchange in own + heard}.values():
                exchange(channel).delete()
        namespace = conf().namespace
        for name in (f"{namespace}celery.pidbox", f"reply.{namespace}celery.pidbox", f"{namespace}celeryev"):
            Exchange(name)(channel).delete()
