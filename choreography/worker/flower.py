"""What Flower is told: task events a few times a second, and an open circuit as one task."""

from typing import Any

import structlog
from celery import bootsteps
from celery.worker.consumer.events import Events

from choreography.worker.circuit_breaker import Circuit

log = structlog.get_logger(__name__)

#: Seconds until Flower is told what has happened.
_INTERVAL = 0.2


class SendTaskEvents(bootsteps.StartStopStep):
    """Send task events in bulk: a message for each would cost as much as a statement.

    While the broker blocks publishers none are sent: writing would block the event loop in the end.
    """

    requires = (Events,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._blocked = False

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        consumer.hub.call_repeatedly(_INTERVAL, _flush, dispatcher)
        if dispatcher.enabled and consumer.connection.transport.driver_type == "amqp":
            connection = dispatcher.connection.connection
            connection.on_blocked = lambda *_: self._block(dispatcher, True)
            connection.on_unblocked = lambda *_: self._block(dispatcher, False)

    def stop(self, consumer: Any) -> None:
        """Abandon a blocked connection. Celery would close it, and wait for a broker that does not read."""
        if self._blocked:
            self._blocked = False
            consumer.event_dispatcher.connection.collect(socket_timeout=1)

    def shutdown(self, consumer: Any) -> None:
        if consumer.event_dispatcher is not None:
            _flush(consumer.event_dispatcher)
        self.stop(consumer)

    def _block(self, dispatcher: Any, blocked: bool) -> None:
        log.warning("task events are dropped: the broker blocks publishers" if blocked else "task events are sent")
        self._blocked, dispatcher.enabled = blocked, not blocked


def _flush(dispatcher: Any) -> None:
    if dispatcher.enabled:
        dispatcher.flush()


def show_circuit(dispatcher: Any, circuit: Circuit, event: str, **fields: Any) -> None:
    """Send a task event (``started``, ``retried``, ``succeeded``) that lets Flower show a circuit as a task."""
    if dispatcher is not None:
        dispatcher.send(f"task-{event}", uuid=str(circuit.id), **fields)
