"""What becomes of a batch, seen from the worker's own process: acknowledged, rejected, or handled again."""

import time
from collections.abc import Sequence
from typing import Any, cast

import structlog
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # the stubs lack it
from billiard.exceptions import WorkerLostError
from celery.exceptions import Ignore, Retry
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_tasks
from celery.worker.state import task_ready

from choreography.inbox.deliveries import REVOKED, Delivery
from choreography.worker.batches import Batch, task_id_of

log = structlog.get_logger(__name__)


class DeliveryParked(Exception):
    """Tells Celery, and so Flower, that a delivery failed for good. It is in the dead-letter table."""


class DeliveryRetried(Retry):
    """Tells Celery, and so Flower, that a delivery is on the retry ladder. Passes from a pool's child to its parent."""

    def __init__(self, why: str, delay: float, down: str | None = None) -> None:
        super().__init__(why, when=delay)  # type: ignore[arg-type]  # the stubs know times only
        self.exc = why  # type: ignore[assignment]  # what Flower shows
        self.down = down

    def __reduce__(self) -> tuple[Any, ...]:
        return DeliveryRetried, (self.message, self.when, self.down)


class PartlyHandled(Ignore):
    """Tells the worker which deliveries of a batch are to be handled again. Passes from child to parent."""

    def __init__(self, summary: str, again: list[int], alone: list[int]) -> None:
        super().__init__(summary, again, alone)
        self.summary, self.again, self.alone = summary, again, alone


class DeliveryRequest(Request):
    """One batch as a Celery request.

    A single delivery that fails is rejected to the dead-letter exchange, unless it is in the dead-letter table already.
    A batch never is: whatever went wrong, each of its deliveries is handled on its own.
    """

    _message: Batch

    def info(self, safe: bool = True) -> Any:
        """For ``celery inspect``: what deliveries hold may be personal, and is not JSON."""
        return super().info(safe=True)

    def revoked(self) -> bool:
        """Celery would skip a revoked task and acknowledge its message. Have its deliveries parked instead."""
        if self.id in revoked_tasks:
            revoked_tasks.discard(self.id)
            give_up_revoked(self._message.deliveries, all_of_them=True)
        return False

    def on_retry(self, exc_info: Any) -> Any:
        exc_info.exception = retried = _raised(exc_info)
        super().on_retry(exc_info)
        if retried.down is not None:
            service = self._message.deliveries[0].service
            self._message.consumer.circuit_breakers.suspect(service, retried.down)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Whatever a task raises comes here. (``on_success`` can't be overridden: Celery defines it in a subclass.)"""
        raised = _raised(exc_info)
        if isinstance(raised, PartlyHandled):
            task_ready(self, successful=True)
            self._message.handle_again(raised.again, raised.alone)
            self.acknowledge()
            seconds = time.time() - cast(float, self.time_start)  # it was accepted before it could raise anything
            return self.send_event("task-succeeded", result=raised.summary, runtime=seconds)
        if isinstance(raised, DeliveryParked):
            self.acknowledge()
        if isinstance(raised, WorkerLostError | SystemExit):
            self._message.handle_again_as_suspects()
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        finally:
            self._message.release()

    def acknowledge(self) -> None:
        super().acknowledge()
        self._message.release()

    def reject(self, requeue: bool = False) -> None:
        every = range(len(self._message.deliveries))
        if len(every) > 1 and not self.acknowledged:
            self._message.handle_again(every, alone=every)
        super().reject(requeue)
        self._message.release()


def give_up_revoked(deliveries: Sequence[Delivery], all_of_them: bool = False) -> None:
    """Have deliveries parked that a person has revoked: by the id of each, as Flower shows it while it is retried.

    Celery forgets the revocation then: the dead letter, when it is sent again, has the same id.
    """
    if not (revoked_tasks or all_of_them):
        return
    for delivery in deliveries:
        task_id = task_id_of(delivery)
        if all_of_them or task_id in revoked_tasks:
            revoked_tasks.discard(task_id)
            delivery.given_up, delivery.alone = REVOKED, True
            log.warning("delivery revoked", service=delivery.service, task=delivery.task, key=delivery.key)


def _raised(exc_info: Any) -> Any:
    """What a task raised. A pool of threads leaves it wrapped."""
    raised = exc_info.exception
    return raised.exc if isinstance(raised, ExceptionWithTraceback) else raised
