"""Celery at the edge: a plain CloudEvents message becomes one task, named after the reaction, in one hop.

``install(app)`` gives a Celery app everything. What happens to a message inside a worker:

1. ``EventConsumer`` looks at it before Celery does. A message that has no ``task`` header gets what Celery needs to
   run it: the name of the reaction it is for, or of ``<service>.park_unusable_message`` where there is none.
2. The task hands it to ``delivery.deliver`` and carries the outcome out: returns (acknowledged), puts it on the
   retry ladder and raises ``Retry`` (acknowledged once the ladder has confirmed), or raises ``Parked`` (acknowledged,
   shown as failed).
3. Whatever else goes wrong (a child killed, Celery refusing the task) rejects the message to the dead-letter
   exchange. The same worker reads ``<service>.dead`` and parks it. Nothing is acknowledged that was not dealt with.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog
from celery import Celery, Task, bootsteps, signals
from celery.beat import Scheduler
from celery.exceptions import Reject, Retry
from celery.worker.consumer import Consumer as CelerysConsumer
from celery.worker.consumer.connection import Connection
from celery.worker.request import Request
from django.core.checks import run_checks
from django.db import close_old_connections
from kombu.serialization import register as register_serializer

from choreography import alive, delivery, embedded, topology
from choreography.conf import conf
from choreography.contracts import read_headline
from choreography.delivery import Delivery, describe
from choreography.errors import Transient, Unusable
from choreography.publishing import BrokerPublisher, Outgoing
from choreography.registry import reaction_to, reactions
from choreography.timers import timers

log = structlog.get_logger(__name__)

#: What a delivery's body is called between the consumer and the pool, which decodes it again.
_INSIDE = "application/x-choreography-delivery"


def install(app: Celery) -> None:
    """Give a Celery app the queues, tasks, timers and settings of the services this process knows."""
    embedded.register()
    register_serializer("choreography", _no_encoder, _decode, content_type=_INSIDE, content_encoding="utf-8")
    namespace = conf().namespace
    app.conf.update(
        broker_url=conf().broker_url,
        worker_consumer=EventConsumer,
        beat_scheduler=LivingScheduler,
        beat_max_loop_interval=5,
        accept_content=["json", "choreography"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[queue for service in conf().services for queue in topology.worker_queues(service)],
        task_create_missing_queues=False,
        task_default_exchange_type="topic",
        control_exchange=f"{namespace}celery",
        event_exchange=f"{namespace}celeryev",
        event_queue_prefix=f"{namespace}celeryev",
        # At least once: an acknowledgement only ever follows a commit.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        task_track_started=True,
    )
    for reaction in reactions():
        app.register_task(DeliveryTask(reaction.name))
    for service in conf().services:
        app.register_task(DeliveryTask(_park_task(service)))
    for timer in timers():
        app.task(name=timer.name, acks_on_failure=True, ignore_result=True, send_events=False)(_tick(timer.function))
    app.conf.beat_schedule = {
        timer.name: {
            "task": timer.name,
            "schedule": timer.seconds,
            "options": {
                "queue": timer.service,
                "exchange": topology.timer_exchange(timer.service).name,
                "routing_key": timer.service,
                "expires": max(timer.seconds * 2, 10),
            },
        }
        for timer in timers()
    }


class Parked(Exception):
    """Tells Celery, and so Flower, that a delivery failed for good. It is in the dead-letter table."""


class DeliveryRequest(Request):
    """A failed task is rejected to the dead-letter exchange, unless it is in the dead-letter table already."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(exc_info.exception, Parked):
            self.acknowledge()
        return super().on_failure(exc_info, *args, **kwargs)


class DeliveryTask(Task[Any, Any]):
    """One delivery to one reaction."""

    Request = f"{__name__}:DeliveryRequest"
    throws = (Parked,)
    ignore_result = True

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, body: str) -> str:
        close_old_connections()
        mail = _delivery(base64.b64decode(body), self.request)
        outcome = delivery.deliver(mail)
        match outcome:
            case delivery.Later(again, delay, error):
                _ladder.publish(again)
                raise Retry(describe(error), when=delay)  # type: ignore[arg-type]
            case delivery.Parked(error):
                raise Parked(describe(error))
            case delivery.Duplicate():
                return "duplicate"
        return "done"


class Ladder:
    """The process's one connection for putting messages on the retry ladder, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._publisher = BrokerPublisher()
        self._stopping = threading.Event()

    def publish(self, message: Outgoing) -> None:
        """Return when the broker has the message, however long that takes: without a ladder there is no going on.

        Raises:
            Reject: the worker is being stopped; the message goes back to the queue it came from.
        """
        pause = 0.1
        while True:
            try:
                with self._lock:
                    self._publisher.publish([message])
                return
            except Transient as down:
                log.warning("ladder waits", seconds=pause, error=type(down).__name__, detail=str(down))
                if self._stopping.wait(pause):
                    raise Reject(str(down), requeue=True) from down
                pause = min(pause * 2, 5.0)

    def stop(self) -> None:
        """Wait for the broker no longer."""
        self._stopping.set()

    def close(self) -> None:
        with self._lock:
            self._publisher.close()


_ladder = Ladder()

#: Its type stubs lack most of what is needed here.
Consumer: Any = CelerysConsumer


class DeclareTopology(bootsteps.StartStopStep):
    """Declare exchanges, queues and the ladder at every (re)connection, before anything is consumed."""

    requires = (Connection,)

    def start(self, consumer: Any) -> None:
        topology.declare(consumer.connection, _services_of(consumer))


class EventConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, taught to take plain CloudEvents."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        #: Celery's native delayed delivery would declare 28 queues and exchanges that the ladder makes needless.
        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop_thread = threading.current_thread()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        celerys_own = super().create_task_handler(*args, **kwargs)
        _take_as_sent(self.task_consumer.channel)

        def on_message(message: Any) -> None:
            if not _is_tick(message):
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

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.add_reader(self._wake_reader, self._on_wake)

    def call_soon_ack(self, promise: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge at once: on the loop's own thread directly, from a pool thread by waking the loop.

        Celery leaves it to the loop's next turn, which may sleep for up to two seconds first.
        """
        if threading.current_thread() is self._loop_thread or self.hub is None:
            return super().call_soon_ack(promise, *args, **kwargs)
        result = super().call_soon_ack(promise, *args, **kwargs)
        try:
            os.write(self._wake_writer, b".")
        except BlockingIOError:
            return result  # the pipe is full: the loop has been woken often enough
        return result

    def _on_wake(self) -> None:
        os.read(self._wake_reader, 65536)


EventConsumer.Blueprint.default_steps.append(DeclareTopology)


class LivingScheduler(Scheduler):
    """Beat's scheduler, in memory (all intervals are short), showing signs of life."""

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        alive.sign("beat")
        return super().tick(*args, **kwargs)


def _park_task(service: str) -> str:
    return f"{service}.park_unusable_message"


def _tick(function: Callable[[], None]) -> Callable[[], None]:
    def tick() -> None:
        close_old_connections()
        function()

    return tick


def _is_tick(message: Any) -> bool:
    """Beat's messages are the only ones of Celery's own kind. Anything else is judged as an event."""
    headers, exchange = message.headers or {}, (message.delivery_info or {}).get("exchange")
    return "id" in headers and any(
        headers.get("task") == timer.name and exchange == topology.timer_exchange(timer.service).name
        for timer in timers()
    )


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
        task, identity, about = _park_task(service), hashlib.sha256(body).hexdigest(), "unreadable message"
    else:
        reaction = reaction_to(service, headline.type)
        task = reaction.name if reaction is not None else _park_task(service)
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
    message.content_type, message.content_encoding = _INSIDE, "utf-8"


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _delivery(body: bytes, request: Any) -> Delivery:
    """What ``_address`` packed, unpacked in the pool."""
    packed = request.choreography
    return Delivery(packed["service"], body, packed["content_type"], packed["headers"], packed["given_up"])


def _decode(body: str | bytes) -> tuple[tuple[str], dict[str, Any], dict[str, Any]]:
    """A packed body as the three parts of a Celery task message: args, kwargs, what to call afterwards."""
    return (json.loads(body),), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _no_encoder(body: Any) -> Any:
    raise NotImplementedError("deliveries are packed by the consumer, never sent")


def _services_of(consumer: Any) -> list[str]:
    """The services whose inbox this worker consumes."""
    consumed = consumer.app.amqp.queues.consume_from
    return [service for service in conf().services if topology.queue_name(service) in consumed]


@signals.celeryd_init.connect
def _check_first(**kwargs: Any) -> None:
    """Celery runs Django's checks without looking at the result. What would lose events must stop the worker."""
    errors = [message for message in run_checks(tags=["choreography"]) if message.is_serious()]
    if errors:
        raise SystemExit("\n".join(str(message) for message in errors))


@signals.worker_ready.connect
def _show_life(sender: Any, **kwargs: Any) -> None:
    """From now on the worker shows that it lives: ``manage.py alive worker-orders``."""
    names = [f"worker-{service}" for service in _services_of(sender)]

    def sign() -> None:
        for name in names:
            alive.sign(name)

    sign()
    sender.timer.call_repeatedly(5, sign)


@signals.worker_shutting_down.connect
def _stop_waiting(**kwargs: Any) -> None:
    _ladder.stop()


@signals.worker_shutdown.connect
def _close_ladder(**kwargs: Any) -> None:
    _ladder.close()
