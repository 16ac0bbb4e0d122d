"""What becomes of a batch, seen from the worker's own process: acknowledged, rejected, or handled again."""

import time
from typing import Any, cast

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # the stubs lack it
from celery.exceptions import Ignore, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from choreography.worker.batches import Batch


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


def _raised(exc_info: Any) -> Any:
    """What a task raised. A pool of threads leaves it wrapped."""
    raised = exc_info.exception
    return raised.exc if isinstance(raised, ExceptionWithTraceback) else raised
