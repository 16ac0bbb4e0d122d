"""Celery's consumer, taught to take plain CloudEvents: what waits together becomes one task.

It also holds back: while a circuit of a service is open it takes nothing from that service's queues.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, uuid4, uuid5

import structlog
from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker.consumer import Consumer as CelerysConsumer
from celery.worker.consumer.connection import Connection
from celery.worker.consumer.events import Events

from choreography.broker import topology
from choreography.core.conf import conf
from choreography.core.errors import Unusable
from choreography.events.registry import reaction_to
from choreography.events.timers import timers
from choreography.inbox import deliveries
from choreography.inbox.deliveries import Delivery
from choreography.worker.batching import Arrival, Groups
from choreography.worker.circuit_breaker import Circuit, Circuits

log = structlog.get_logger(__name__)

#: Its type stubs lack most of what is needed here.
Consumer: Any = CelerysConsumer

#: Seconds between two looks whether something may be handled although nothing has come or ended.
_LOOKING = 0.1
#: Seconds until Flower is told what has happened.
_TELLING = 0.2
#: So many events of a group are named where people look.
_NAMED = 3


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


class TellingFlower(bootsteps.StartStopStep):
    """Tell Flower now and then what has happened to tasks: a message for each would cost as much as a statement.

    While the broker blocks publishers it is told nothing: writing would freeze the loop in the end.
    """

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._blocked = False

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        consumer.hub.call_repeatedly(_TELLING, _tell, dispatcher)
        if dispatcher.enabled and consumer.connection.transport.driver_type == "amqp":
            line = dispatcher.connection.connection
            line.on_blocked = lambda *_: self._block(dispatcher, True)
            line.on_unblocked = lambda *_: self._block(dispatcher, False)

    def stop(self, consumer: Any) -> None:
        """Throw a blocked connection away. Celery would close it, and wait for a broker that does not read."""
        if self._blocked:
            self._blocked = False
            consumer.event_dispatcher.connection.collect(socket_timeout=1)

    def shutdown(self, consumer: Any) -> None:
        if consumer.event_dispatcher is not None:
            _tell(consumer.event_dispatcher)
        self.stop(consumer)

    def _block(self, dispatcher: Any, blocked: bool) -> None:
        log.warning("task events are dropped: the broker blocks publishers" if blocked else "task events go on")
        self._blocked, dispatcher.enabled = blocked, not blocked


def _tell(dispatcher: Any) -> None:
    if dispatcher.enabled:
        dispatcher.flush()


class EventConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, taught to take plain CloudEvents and to hold back."""

    #: The one of this process: a request does not know the consumer that took it.
    running: ClassVar[Any] = None

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        #: Celery's native delayed delivery would declare 28 queues and exchanges that the ladder makes needless.
        default_steps = [
            *(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step),
            DeclareTopology,
            TellingFlower,
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.services = services_of(self)
        for queue in (queue for service in self.services for queue in topology.worker_queues(service)):
            self.app.amqp.queues.select_add(queue)  # whoever says -Q payments gets its ticks and dead letters as well
        self.circuits = Circuits(self)
        self.groups = Groups(conf().group, slots=0)
        self._answers: Answers | None = None
        self._handing_over = threading.local()
        self._is_due = False
        self._held_back: set[str] = set()
        self._tags: dict[str, str] = {}
        EventConsumer.running = self

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        self._celerys_own = super().create_task_handler(*args, **kwargs)
        _take_as_sent(self.task_consumer.channel)
        self.groups.slots = self.pool.num_processes
        self.groups.rests = not self._runs_tasks_itself
        self.groups.forget()  # what a task left since the connection was lost
        self._is_due = False  # what was due is forgotten with the old loop
        self._answers = answers = Answers(multiple=self.connection.transport.driver_type == "amqp")
        ticks = {timer.name: topology.timer_exchange(timer.service).name for timer in timers()}

        def on_message(message: Any) -> None:
            answers.expect(message)
            if _is_expired_tick(message, ticks):
                message.ack_log_error(log, self.connection_errors)
            elif _is_tick(message, ticks):
                self._run(message)
            else:
                self.groups.add(_arrival(message, self._queue_of(message), answers))
                self._hand_over_soon()

        return on_message

    def release(self, group: "GroupMessage") -> None:
        """A group has been handled: there is room for another. Does nothing the second time. On any thread."""
        if not group.is_released:
            group.is_released = True
            # What came through a connection that is lost comes again through the new one.
            again = [arrival for arrival in group.left if arrival.answers is self._answers]
            rest = self.groups.release(group.arrivals, again)
            if rest:
                self.call_soon(self.timer.call_after, rest, self._hand_over)
            self._hand_over()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_LOOKING, self._hand_over)  # who has its turn may turn out to be slow

    def take_no_more(self) -> None:
        """The worker is being stopped. What waits goes back to its queue with the connection."""
        self.groups.slots = 0

    def on_send_event_buffered(self) -> None:
        """``TellingFlower`` looks after it. Celery would send it at once."""

    def on_close(self) -> None:
        self._answers = None
        self.groups.forget()
        super().on_close()

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

    @property
    def _runs_tasks_itself(self) -> bool:
        """The loop does, one at a time, and takes up nothing else meanwhile."""
        return isinstance(self.pool, SoloPool)

    def _hand_over_soon(self) -> None:
        """When all is read that has arrived, so that it is handed over together."""
        if self._runs_tasks_itself:
            self._hand_over()  # later they would run where the loop does not see that they are to be acknowledged
        elif not self._is_due:
            self._is_due = True
            self.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Give the pool as many groups as it has room for."""
        self._is_due = False
        if getattr(self._handing_over, "now", False):
            return  # a pool that runs its tasks here has just released one: the loop below goes on
        self._handing_over.now = True
        try:
            while group := self.groups.take():
                self._run(GroupMessage(group))
        finally:
            self._handing_over.now = False

    def _run(self, message: Any) -> None:
        """Have Celery make a task of a tick or a group."""
        try:
            self._celerys_own(message)
        except (KeyError, TypeError, ValueError) as error:  # a malformed tick would end the worker
            self.on_decode_error(message, error)

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
    return {inbox, *others} if circuit.what == deliveries.DATABASE else {inbox}


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


class Answers:
    """Acknowledges many messages of one channel with few frames. On the thread that talks to the channel."""

    def __init__(self, *, multiple: bool) -> None:
        """``multiple``: tags count upwards, and one answer may cover all before it, as in AMQP."""
        self._multiple = multiple
        #: What has arrived and is not answered, the oldest first.
        self._open: dict[int, Any] = {}

    def expect(self, message: Any) -> None:
        """A message has arrived. It is answered by ``ack`` here, or by itself."""
        if self._multiple:
            self._open[message.delivery_tag] = message

    def ack(self, messages: Sequence[Any], logger: Any, errors: Any) -> None:
        """Acknowledge messages, in whatever order."""
        if self._multiple:
            messages = sorted(messages, key=lambda message: message.delivery_tag)
        for message in messages:
            self._open.pop(message.delivery_tag, None)
        while self._open and (oldest := next(iter(self._open.values()))).acknowledged:
            del self._open[oldest.delivery_tag]
        first_open = next(iter(self._open), math.inf)
        covered = [it for it in messages if it.delivery_tag < first_open] if self._multiple else []
        for message in covered[-1:]:
            message.ack_log_error(logger, errors, multiple=True)
        for message in messages[len(covered) :]:
            message.ack_log_error(logger, errors)


def _arrival(message: Any, queue: str, answers: Answers) -> Arrival:
    """Tell what a message is, and for whom.

    Args:
        queue: where it came from; the part of its name before the first dot names the service.
        answers: those of the channel it came through.
    """
    service = queue.removeprefix(conf().namespace).partition(".")[0]
    body, headers = _bytes(message.body), dict(message.headers or {})
    is_dead = queue == topology.dead_queue_name(service)
    mail = Delivery(
        service, body, message.content_type, headers, deliveries.reason_of_death(headers) if is_dead else None
    )
    try:
        headline = mail.headline
    except Unusable:
        identity = hashlib.sha256(body).hexdigest()
        return Arrival(park_task(service), None, identity, mail, message, answers, queue, alone=True)
    reaction = reaction_to(service, headline.type)
    return Arrival(
        task=reaction.name if reaction is not None else park_task(service),
        subject=headline.subject,
        identity=str(headline.id),
        delivery=mail,
        message=message,
        answers=answers,
        queue=queue,
        alone=reaction is None or mail.is_suspect,
    )


class GroupMessage:
    """What Celery takes for one message: deliveries to one reaction that are handled together."""

    properties: ClassVar[dict[str, Any]] = {}
    #: The body goes to the pool as it is, with nothing to decode.
    content_type = content_encoding = None

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        #: What is to be handled again, by the same worker.
        self.left: Sequence[Arrival] = ()
        self.is_released = False
        first = arrivals[0]
        # Every service gets the same event: an id of its own keeps them apart in Flower and in revocations.
        one = len(arrivals) == 1
        task_id = str(uuid5(NAMESPACE_URL, f"{first.queue}:{first.identity}") if one else uuid4())
        history = first.delivery.history
        self.delivery_info = first.message.delivery_info
        self.headers = {
            "task": first.task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": history.attempts + history.waits if one else 0,
            "argsrepr": _about(arrivals),
            "kwargsrepr": "{}",
        }
        embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        self.body: Any = ([[arrival.delivery for arrival in arrivals]], {}, embedded)
        self.payload: Any = self.body

    def leave(self, places: Collection[int], alone: Collection[int]) -> None:
        """Don't answer for the deliveries at these places: they are to be handled again, some of them alone."""
        for place in alone:
            self.arrivals[place].alone = True
        self.left = [self.arrivals[place] for place in sorted(places)]

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        if dealt_with := self._dealt_with():
            dealt_with[0].answers.ack([arrival.message for arrival in dealt_with], logger, errors)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        for arrival in self._dealt_with():
            arrival.message.reject_log_error(logger, errors, requeue)

    def _dealt_with(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival not in self.left]


def _about(arrivals: Sequence[Arrival]) -> str:
    """What people see of a task."""
    named = ", ".join(map(_name, arrivals[:_NAMED]))
    more = f" and {len(arrivals) - _NAMED} more" if len(arrivals) > _NAMED else ""
    return f"{len(arrivals)} events: {named}{more}" if len(arrivals) > 1 else named


def _name(arrival: Arrival) -> str:
    if arrival.subject is None:
        return "unreadable message"
    headline = arrival.delivery.headline
    return f"{headline.type} {headline.id} of {headline.subject}"


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")
