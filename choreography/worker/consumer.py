"""Celery's consumer, taught to take plain CloudEvents: deliveries that wait together become one task.

It also pauses: while a circuit of a service is open it takes nothing from that service's queues.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.connection import Connection

from choreography.broker import topology
from choreography.core.conf import conf
from choreography.events.timers import timers
from choreography.inbox.deliveries import DATABASE, Delivery
from choreography.worker.acknowledgements import Acknowledgements
from choreography.worker.batched_messages import events_of
from choreography.worker.batches import Batch
from choreography.worker.batching import Batcher
from choreography.worker.circuit_breaker import Circuit, CircuitBreakers
from choreography.worker.flower import SendTaskEvents, show_circuit
from choreography.worker.receiving import is_expired_tick, is_tick, keep_raw, read_delivery
from choreography.worker.requests import give_up_revoked

log = structlog.get_logger(__name__)

#: Its type stubs lack most of what is needed here.
Consumer: Any = CeleryConsumer

#: Seconds between two looks whether a batch may be started although nothing has arrived or ended.
_LOOK_EVERY = 0.1


class DeclareTopology(bootsteps.StartStopStep):
    """Declare exchanges, queues and the ladder at every (re)connection, before anything is consumed."""

    requires = (Connection,)

    def start(self, consumer: Any) -> None:
        topology.declare(consumer.connection, consumer.services)


class EventConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer for plain CloudEvents, with batches and circuit breakers."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        #: Celery's native delayed delivery would declare 28 queues and exchanges that the ladder makes needless.
        default_steps = [
            *(step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step),
            DeclareTopology,
            SendTaskEvents,
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.services = _services_consumed_by(self)
        for queue in (queue for service in self.services for queue in topology.worker_queues(service)):
            self.app.amqp.queues.select_add(queue)  # -Q payments consumes its ticks and dead letters as well
        self.circuit_breakers = CircuitBreakers(self)
        self.batcher = Batcher(conf().batch_size, slots=0)
        self._acknowledgements = Acknowledgements(multiple=False)
        self._starting = threading.local()
        self._start_is_due = False
        self._paused: set[str] = set()
        self._queues_by_tag: dict[str, str] = {}
        self._is_cancelled = False

    # Messages

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        self._make_task = super().create_task_handler(*args, **kwargs)
        keep_raw(self.task_consumer.channel)
        self._notice_cancellation(self.task_consumer.channel)
        self.batcher.slots = self.pool.num_processes
        self.batcher.pauses = not self._runs_tasks_itself
        self.batcher.forget()  # what a task put back since the connection was lost
        self._start_is_due = False  # the old loop, which was to do it, is gone
        acknowledgements = Acknowledgements(multiple=self.connection.transport.driver_type == "amqp")
        self._acknowledgements = acknowledgements
        ticks = {timer.name: topology.timer_exchange(timer.service).name for timer in timers()}

        def on_message(message: Any) -> None:
            acknowledgements.expect(message)
            if is_expired_tick(message, ticks):
                message.ack_log_error(log, self.connection_errors)
            elif is_tick(message, ticks):
                self._start_task(message)
            else:
                queue, events = self._queue_of(message), events_of(message)
                for event in events:
                    self.batcher.add(read_delivery(event, queue))
                if events:
                    self._start_batches_soon()
                else:
                    message.ack_log_error(log, self.connection_errors)

        return on_message

    def free(self, deliveries: Sequence[Delivery]) -> None:
        """They have taken effect: the next events of their subjects may be handled. On any thread."""
        self.batcher.free(deliveries)
        self._start_batches()

    def release(self, batch: Batch) -> None:
        """A batch has been handled: there is room for another. On any thread."""
        # What came through a connection that is lost is delivered again through the new one.
        again = batch.again if batch.acknowledgements is self._acknowledgements else ()
        pause = self.batcher.release(batch.deliveries, again)
        if pause:
            self.call_soon(self.timer.call_after, pause, self._start_batches)
        self._start_batches()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_LOOK_EVERY, self._start_batches)  # a batch that runs may turn out to be slow
        hub.on_tick.add(self._connect_again_if_cancelled)

    def stop_taking(self) -> None:
        """The worker is being stopped. What waits goes back to its queue with the connection."""
        self.batcher.slots = 0
        self.circuit_breakers.stop()

    def on_send_event_buffered(self) -> None:
        """``SendTaskEvents`` sends them. Celery would send each at once."""

    def on_close(self) -> None:
        self._acknowledgements = Acknowledgements(multiple=False)
        self.batcher.forget()
        super().on_close()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Celery would acknowledge a message it can't read. Reject it to the dead-letter exchange instead."""
        log.error("message refused", error=type(exc).__name__)
        message.reject_log_error(log, self.connection_errors)

    @property
    def _runs_tasks_itself(self) -> bool:
        """The event loop runs the tasks, one at a time, and does nothing else meanwhile."""
        return isinstance(self.pool, SoloPool)

    def _start_batches_soon(self) -> None:
        """When all that has arrived is read, so that it shares a batch."""
        if self._runs_tasks_itself:
            self._start_batches()  # later the loop would not see that they are to be acknowledged
        elif not self._start_is_due:
            self._start_is_due = True
            self.call_soon(self._start_batches)

    def _start_batches(self) -> None:
        """Give the pool as many batches as it has room for."""
        self._start_is_due = False
        if getattr(self._starting, "now", False):
            return  # a pool that runs its tasks here has just released one: the loop below continues
        self._starting.now = True
        try:
            while deliveries := self.batcher.take():
                give_up_revoked(deliveries)
                self._start_task(Batch(deliveries, self, self._acknowledgements))
        finally:
            self._starting.now = False

    def _start_task(self, message: Any) -> None:
        """Have Celery make a task of a tick or a batch."""
        try:
            self._make_task(message)
        except (KeyError, TypeError, ValueError) as error:  # a malformed tick would end the worker
            self.on_decode_error(message, error)

    def _notice_cancellation(self, channel: Any) -> None:
        """Remember that the broker has ended a consumer, because its queue was deleted.

        py-amqp raises an error then, which Celery swallows if it comes before its loop has begun.
        """
        self._is_cancelled = False
        if self.connection.transport.driver_type != "amqp":
            return
        raise_error = channel._on_basic_cancel

        def on_cancel(tag: str) -> None:
            self._is_cancelled = True
            raise_error(tag)

        channel._callbacks[spec.Basic.Cancel] = on_cancel

    def _connect_again_if_cancelled(self) -> None:
        """On each turn of the event loop. The queue is declared again with the connection."""
        if self._is_cancelled:
            self._is_cancelled = False
            raise RecoverableConnectionError("the broker has ended a consumer: its queue was deleted")

    def _queue_of(self, message: Any) -> str:
        tag = message.delivery_info["consumer_tag"]
        if tag not in self._queues_by_tag:
            self._remember_tags()
        return self._queues_by_tag[tag]

    def _remember_tags(self) -> None:
        self._queues_by_tag |= {tag: queue for queue, tag in self.task_consumer._active_tags.items()}

    # Circuits (see circuit_breaker.CircuitListener), on their threads

    def opened(self, circuit: Circuit, error: str) -> None:
        self.call_soon(self._on_opened, circuit, error)

    def still_open(self, circuit: Circuit, error: str) -> None:
        self.call_soon(show_circuit, self.event_dispatcher, circuit, "retried", exception=error)

    def closed(self, circuit: Circuit, seconds: float) -> None:
        self.call_soon(self._on_closed, circuit, seconds)

    # Circuits, on the event loop

    def on_ready(self) -> None:
        """At every (re)connection, when everything is consumed again that Celery knows of."""
        super().on_ready()
        self._pause_and_resume()

    def cancel_task_queue(self, queue: str) -> None:
        self._remember_tags()  # messages of a queue still arrive while it is being cancelled
        super().cancel_task_queue(queue)

    def _on_opened(self, circuit: Circuit, error: str) -> None:
        self._pause_and_resume()
        show_circuit(self.event_dispatcher, circuit, "received", name=circuit.name, args="()", kwargs="{}", retries=0)
        show_circuit(self.event_dispatcher, circuit, "started")
        show_circuit(self.event_dispatcher, circuit, "retried", exception=error)

    def _on_closed(self, circuit: Circuit, seconds: float) -> None:
        self._pause_and_resume()
        show_circuit(self.event_dispatcher, circuit, "succeeded", result="'it answers again'", runtime=seconds)

    def _pause_and_resume(self) -> None:
        """Stop consuming the queues behind open circuits, and consume again those behind none. Safe to repeat.

        A queue that is deselected stays so when Celery reconnects.
        """
        if self.task_consumer is None:
            return  # the worker ends
        behind_open = set().union(*map(_queues_behind, self.circuit_breakers.open))
        for queue in behind_open - self._paused:
            if self.task_consumer.consuming_from(queue):  # else an operator has stopped it
                self._paused.add(queue)
                self.cancel_task_queue(queue)
        for queue in self._paused - behind_open:
            self._paused.discard(queue)
            self.add_task_queue(queue)


def _services_consumed_by(consumer: Any) -> list[str]:
    consumed = consumer.app.amqp.queues.consume_from
    return [service for service in conf().services if topology.queue_name(service) in consumed]


def _queues_behind(circuit: Circuit) -> set[str]:
    """What is not consumed while a circuit is open. Without its database a service can do nothing at all."""
    inbox, *others = (queue.name for queue in topology.worker_queues(circuit.service))
    return {inbox, *others} if circuit.dependency == DATABASE else {inbox}
