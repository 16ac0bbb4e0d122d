"""Celery's consumer, taught to take plain CloudEvents: it gives a message what Celery needs to run it as a task.

It also holds back: while a circuit of a service is open it takes nothing from that service's queues.

A message is packed for the way from the event loop to the pool, which decodes it again: the body as base64 under a
content type of our own, everything else among the headers.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

import structlog
from celery import bootsteps
from celery.worker.consumer import Consumer as CelerysConsumer
from celery.worker.consumer.connection import Connection
from celery.worker.consumer.events import Events
from kombu.serialization import register as register_serializer

from choreography import delivery, topology
from choreography.circuits import Circuit, Circuits
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
        topology.declare(consumer.connection, consumer.services)


class NoEventsWhileBlocked(bootsteps.StartStopStep):
    """Drop what Flower would be told while the broker blocks publishers: writing would freeze the loop in the end."""

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._blocked = False

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        if dispatcher.enabled and consumer.connection.transport.driver_type == "amqp":
            line = dispatcher.connection.connection
            line.on_blocked = lambda *_: self._block(dispatcher, True)
            line.on_unblocked = lambda *_: self._block(dispatcher, False)

    def stop(self, consumer: Any) -> None:
        """Throw a blocked connection away. Celery would close it, and wait for a broker that does not read."""
        if self._blocked:
            self._blocked = False
            consumer.event_dispatcher.connection.collect(socket_timeout=1)

    shutdown = stop

    def _block(self, dispatcher: Any, blocked: bool) -> None:
        log.warning("task events are dropped: the broker blocks publishers" if blocked else "task events go on")
        self._blocked, dispatcher.enabled = blocked, not blocked


class EventConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, taught to take plain CloudEvents and to hold back."""

    #: The one of this process: a request does not know the consumer that took it.
    running: ClassVar[Any] = None

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        #: Celery's native delayed delivery would declare 28 queues and exchanges that the ladder makes needless.
        default_steps = [
            *(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step),
            DeclareTopology,
            NoEventsWhileBlocked,
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.services = services_of(self)
        for queue in (queue for service in self.services for queue in topology.worker_queues(service)):
            self.app.amqp.queues.select_add(queue)  # whoever says -Q payments gets its ticks and dead letters as well
        self.circuits = Circuits(self)
        self._held_back: set[str] = set()
        self._tags: dict[str, str] = {}
        EventConsumer.running = self

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        celerys_own = super().create_task_handler(*args, **kwargs)
        _take_as_sent(self.task_consumer.channel)
        ticks = {timer.name: topology.timer_exchange(timer.service).name for timer in timers()}

        def on_message(message: Any) -> None:
            if _is_expired_tick(message, ticks):
                message.ack_log_error(log, self.connection_errors)
                return
            if not _is_tick(message, ticks):
                _address(message, self._queue_of(message))
            try:
                celerys_own(message)
            except (KeyError, TypeError, ValueError) as error:  # a malformed tick would end the worker
                self.on_decode_error(message, error)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Celery would acknowledge a message it can't read. Send it to the dead letters instead."""
        log.error("message refused", error=type(exc).__name__)
        message.reject_log_error(log, self.connection_errors)

    def on_ready(self) -> None:
        """At every (re)connection, when all is consumed again that Celery knows of."""
        super().on_ready()
        self._consume_what_may_be()

    def cancel_task_queue(self, queue: str) -> None:
        self._learn_tags()  # messages of a queue still arrive while it is being cancelled
        super().cancel_task_queue(queue)

    # What the circuits say (see circuits.Holder), on their threads

    def opened(self, circuit: Circuit, error: str) -> None:
        self.call_soon(self._on_opened, circuit, error)

    def still_open(self, circuit: Circuit, error: str) -> None:
        self.call_soon(self._show, circuit, "retried", exception=error)

    def closed(self, circuit: Circuit, seconds: float) -> None:
        self.call_soon(self._on_closed, circuit, seconds)

    # On the event loop

    def _on_opened(self, circuit: Circuit, error: str) -> None:
        self._consume_what_may_be()
        self._show(circuit, "received", name=circuit.name, args="()", kwargs="{}", retries=0)
        self._show(circuit, "started")
        self._show(circuit, "retried", exception=error)

    def _on_closed(self, circuit: Circuit, seconds: float) -> None:
        self._consume_what_may_be()
        self._show(circuit, "succeeded", result="'it answers again'", runtime=seconds)

    def _show(self, circuit: Circuit, what: str, **fields: Any) -> None:
        """Let Flower show an open circuit as one task."""
        if self.event_dispatcher is not None:
            self.event_dispatcher.send(f"task-{what}", uuid=str(circuit.id), **fields)

    def _consume_what_may_be(self) -> None:
        """Stop consuming what open circuits hold back, and take up what none does any more. Safe to repeat.

        A queue that is deselected stays so when Celery connects anew.
        """
        if self.task_consumer is None:
            return  # the worker ends
        held_back = set().union(*map(_queues_behind, self.circuits.open))
        for queue in held_back - self._held_back:
            if self.task_consumer.consuming_from(queue):  # else a person has stopped it
                self._held_back.add(queue)
                self.cancel_task_queue(queue)
        for queue in self._held_back - held_back:
            self._held_back.discard(queue)
            self.add_task_queue(queue)

    def _queue_of(self, message: Any) -> str:
        tag = message.delivery_info["consumer_tag"]
        if tag not in self._tags:
            self._learn_tags()
        return self._tags[tag]

    def _learn_tags(self) -> None:
        self._tags |= {tag: queue for queue, tag in self.task_consumer._active_tags.items()}


def _queues_behind(circuit: Circuit) -> set[str]:
    """What is not consumed while a circuit is open. Without its database a service can do nothing at all."""
    inbox, *others = (queue.name for queue in topology.worker_queues(circuit.service))
    return {inbox, *others} if circuit.what == delivery.DATABASE else {inbox}


def _is_tick(message: Any, ticks: dict[str, str]) -> bool:
    """Beat's messages are the only ones of Celery's own kind. Anything else is judged as an event.

    Args:
        ticks: the exchange through which each timer's messages come.
    """
    headers = message.headers or {}
    exchange = ticks.get(str(headers.get("task")))
    return "id" in headers and exchange is not None and message.delivery_info.get("exchange") == exchange


def _is_expired_tick(message: Any, ticks: dict[str, str]) -> bool:
    """A tick that nobody took in time comes by way of the dead letters, and has done all it was to do."""
    headers = message.headers or {}
    match headers.get("x-death"):
        case [{"reason": "expired", "exchange": exchange}, *_]:
            return bool(exchange == ticks.get(str(headers.get("task"))))
    return False


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


def _address(message: Any, queue: str) -> None:
    """Give a plain message what Celery needs to run it: a task, an id, a body the pool can decode.

    Args:
        queue: where it came from; the part of its name before the first dot names the service.
    """
    service = queue.removeprefix(conf().namespace).partition(".")[0]
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
