"""Celery's consumer, taught to take plain CloudEvents: it gives a message what Celery needs to run it as a task.

A message is packed for the way from the event loop to the pool, which decodes it again: the body as base64 under a
content type of our own, everything else among the headers.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog
from celery import bootsteps
from celery.worker.consumer import Consumer as CelerysConsumer
from celery.worker.consumer.connection import Connection
from kombu.serialization import register as register_serializer

from choreography import delivery, topology
from choreography.conf import conf
from choreography.contracts import read_headline
from choreography.delivery import Delivery
from choreography.errors import Unusable
from choreography.registry import reaction_to
from choreography.timers import timers

log = structlog.get_logger(__name__)

#: What a packed body is called.
_PACKED = "application/x-choreography-delivery"

#: Its type stubs lack most of what is needed here.
Consumer: Any = CelerysConsumer


def register_packing() -> None:
    """Make kombu able to decode packed bodies, under the name ``choreography``."""
    register_serializer("choreography", _no_encoder, _decode, content_type=_PACKED, content_encoding="utf-8")


def park_task(service: str) -> str:
    """The task that keeps a service's unusable messages."""
    return f"{service}.park_unusable_message"


def services_of(consumer: Any) -> list[str]:
    """The services whose inbox this worker consumes."""
    consumed = consumer.app.amqp.queues.consume_from
    return [service for service in conf().services if topology.queue_name(service) in consumed]


class DeclareTopology(bootsteps.StartStopStep):
    """Declare exchanges, queues and the ladder at every (re)connection, before anything is consumed."""

    requires = (Connection,)

    def start(self, consumer: Any) -> None:
        topology.declare(consumer.connection, services_of(consumer))


class EventConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, taught to take plain CloudEvents."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        #: Celery's native delayed delivery would declare 28 queues and exchanges that the ladder makes needless.
        default_steps = [
            *(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step),
            DeclareTopology,
        ]

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        celerys_own = super().create_task_handler(*args, **kwargs)
        _take_as_sent(self.task_consumer.channel)
        ticks = {timer.name: topology.timer_exchange(timer.service).name for timer in timers()}

        def on_message(message: Any) -> None:
            if not _is_tick(message, ticks):
                _address(message, *_origin(message, self))
            try:
                celerys_own(message)
            except (KeyError, TypeError, ValueError) as error:  # a malformed tick would end the worker
                self.on_decode_error(message, error)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Celery would acknowledge a message it can't read. Send it to the dead letters instead."""
        log.error("message refused", error=type(exc).__name__)
        message.reject_log_error(log, self.connection_errors)


def _is_tick(message: Any, ticks: dict[str, str]) -> bool:
    """Beat's messages are the only ones of Celery's own kind. Anything else is judged as an event.

    Args:
        ticks: the exchange through which each timer's messages come.
    """
    headers = message.headers or {}
    exchange = ticks.get(str(headers.get("task")))
    return "id" in headers and exchange is not None and message.delivery_info.get("exchange") == exchange


def _take_as_sent(channel: Any) -> None:
    """Have bodies come as the bytes that were sent.

    py-amqp would decode what claims a text encoding, and kombu unpack what claims to be compressed, however large
    that gets, before anyone could judge it.
    """
    to_message = channel.message_to_python

    def unopened(raw: Any) -> Any:
        headers = raw.properties.get("application_headers") or {}
        compression = headers.pop("compression", None)
        message = to_message(raw)
        if compression is not None:
            message.headers["compression"] = compression
        return message

    channel.auto_decode = False
    channel.message_to_python = unopened


def _origin(message: Any, consumer: Any) -> tuple[str, str]:
    """The service whose queue a message came from, and the queue."""
    tags = {tag: queue for queue, tag in consumer.task_consumer._active_tags.items()}
    queue = tags[message.delivery_info["consumer_tag"]]
    return queue.removeprefix(conf().namespace).partition(".")[0], queue


def _address(message: Any, service: str, queue: str) -> None:
    """Give a plain message what Celery needs to run it: a task, an id, a body the pool can decode."""
    body = _bytes(message.body)
    headers = dict(message.headers or {})
    mail = Delivery(service, body, message.content_type, headers)
    try:
        headline = read_headline(body, message.content_type, conf().max_body_bytes)
    except Unusable:
        task, identity, about = park_task(service), hashlib.sha256(body).hexdigest(), "unreadable message"
    else:
        reaction = reaction_to(service, headline.type)
        task = reaction.name if reaction is not None else park_task(service)
        identity, about = str(headline.id), f"{headline.type} {headline.id} of {headline.subject}"
    # Every service gets the same event: an id of its own keeps them apart in Flower and in revocations.
    task_id = str(uuid5(NAMESPACE_URL, f"{queue}:{identity}"))
    message.headers = {
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "retries": mail.history.attempts + mail.history.waits,
        "argsrepr": about,
        "kwargsrepr": "{}",
        "choreography": {
            "service": service,
            "content_type": message.content_type,
            "headers": headers,
            "given_up": delivery.reason_of_death(headers) if queue == topology.dead_queue(service).name else None,
        },
    }
    message.body = json.dumps(base64.b64encode(body).decode())
    message.content_type, message.content_encoding = _PACKED, "utf-8"


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def unpack(body: str, request: Any) -> Delivery:
    """What ``_address`` packed, in the pool."""
    packed = request.choreography
    return Delivery(
        packed["service"], base64.b64decode(body), packed["content_type"], packed["headers"], packed["given_up"]
    )


def _decode(body: str | bytes) -> tuple[tuple[str], dict[str, Any], dict[str, Any]]:
    """A packed body as the three parts of a Celery task message: args, kwargs, what to call afterwards."""
    return (json.loads(body),), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _no_encoder(body: Any) -> Any:
    raise NotImplementedError("deliveries are packed by the consumer, never sent")
