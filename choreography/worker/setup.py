"""Celery at the edge: a plain CloudEvents message becomes one task, named after the reaction, in one hop.

``install(app)`` gives a Celery app everything. What happens to a message inside a worker:

1. ``consumer.EventConsumer`` looks at it before Celery does. Every message but a tick of our own timers waits among
   others (``groups``) until the pool has room. Then those that wait for one reaction become one task, named after it,
   or after ``<service>.park_unusable_message``.
2. The task hands them to ``handling`` and carries the outcome out: returns (acknowledged), puts it on the retry ladder
   and raises ``Retry`` (acknowledged once the ladder has confirmed), or raises ``Parked`` (acknowledged, shown as
   failed). What did not go well in a group waits again, for a task of its own.
3. A retry because of an outage makes the consumer look whether the database or the host is down (``circuits``); while
   it is, the service's messages stay in their queue.
4. Whatever else goes wrong (Celery refusing the task) rejects the message to the dead-letter exchange; that of a child
   that was killed goes back to its queue, and there when the broker gives it up. The same worker reads
   ``<service>.dead`` and parks it. Nothing is acknowledged that was not dealt with.
"""

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

import structlog
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # the stubs lack it
from celery import Celery, Task, signals
from celery.beat import Scheduler
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready
from django.core.checks import run_checks
from django.db import close_old_connections

from choreography.broker import embedded, topology
from choreography.broker.publisher import BrokerPublisher, Outgoing
from choreography.core import liveness
from choreography.core.conf import conf
from choreography.core.errors import Transient, describe
from choreography.core.garbage import leave_imports_alone
from choreography.events.registry import reactions
from choreography.events.timers import Timer, timers
from choreography.inbox import deliveries, handler
from choreography.inbox.deliveries import Delivery
from choreography.inbox.resuming import Waiting
from choreography.storage.claims import claimed
from choreography.storage.models import alias_of
from choreography.worker.consumer import EventConsumer, park_task

log = structlog.get_logger(__name__)

#: Seconds for which a connection to a database is trusted.
_CHECKED_FOR = 1.0
#: Every tick of a timer makes the same claim.
_TICK = UUID(int=0)


def install(app: Celery) -> None:
    """Give a Celery app the queues, tasks, timers and settings of the services this process knows."""
    embedded.register()
    namespace = conf().namespace
    app.conf.update(
        broker_url=conf().broker_url,
        worker_consumer=EventConsumer,
        beat_scheduler=LivingScheduler,
        beat_max_loop_interval=5,
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_queues=[queue for service in conf().services for queue in topology.worker_queues(service)],
        task_create_missing_queues=False,
        task_default_exchange_type="topic",
        control_exchange=f"{namespace}celery",
        event_exchange=f"{namespace}celeryev",
        event_queue_prefix=f"{namespace}celeryev",
        # Database connections outlive a task; ``Connections`` checks them.
        CELERY_DB_REUSE_MAX=sys.maxsize,
        # At least once: an acknowledgement only ever follows a commit.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        # Enough to fill a group for each of the pool's slots.
        worker_prefetch_multiplier=conf().group,
        # After a reconnect Celery would widen a reduced prefetch from the pool's threads, and they would wait for the
        # broker's answer on the connection the event loop reads from.
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        task_track_started=True,
    )
    for reaction in reactions():
        app.register_task(DeliveryTask(reaction.name))
    for service in conf().services:
        app.register_task(DeliveryTask(park_task(service)))
    for timer in timers():
        app.task(name=timer.name, acks_on_failure=True, ignore_result=True, send_events=False)(_tick(timer))
    app.conf.beat_schedule = {
        timer.name: {
            "task": timer.name,
            "schedule": timer.seconds,
            "options": {
                "queue": topology.timer_queue(timer.service).name,
                "exchange": topology.timer_exchange(timer.service).name,
                "routing_key": timer.service,
                "expires": max(timer.seconds * 2, 10),
            },
        }
        for timer in timers()
    }


class Parked(Exception):
    """Tells Celery, and so Flower, that a delivery failed for good. It is in the dead-letter table."""


class Waits(Retry):
    """Tells Celery, and so Flower, that a delivery is on the retry ladder. Passes from a pool's child to its parent."""

    def __init__(self, why: str, delay: float, down: str | None = None) -> None:
        super().__init__(why, when=delay)  # type: ignore[arg-type]  # the stubs know times only
        self.exc = why  # type: ignore[assignment]  # what Flower shows
        self.down = down

    def __reduce__(self) -> tuple[Any, ...]:
        return Waits, (self.message, self.when, self.down)


class Partly(Ignore):
    """Tells the worker that some of a group's deliveries are to be handled again. Passes from child to parent."""

    def __init__(self, summary: str, left: list[int], alone: list[int]) -> None:
        super().__init__(summary, left, alone)
        self.summary, self.left, self.alone = summary, left, alone


class DeliveryRequest(Request):
    """What becomes of a task, seen from the worker's own process.

    A failed one is rejected to the dead-letter exchange, unless it is in the dead-letter table already. A group never
    is: whatever went wrong, each of its deliveries is handled on its own.
    """

    _message: Any

    def info(self, safe: bool = True) -> Any:
        """For ``celery inspect``: what deliveries hold may be personal, and is not JSON."""
        return super().info(safe=True)

    def on_retry(self, exc_info: Any) -> Any:
        exc_info.exception = waits = _raised(exc_info)
        super().on_retry(exc_info)
        if waits.down is not None:
            EventConsumer.running.circuits.suspect(self.name.partition(".")[0], waits.down)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Whatever a task raises comes here. (``on_success`` can't be overridden: Celery's stands in a subclass.)"""
        raised = _raised(exc_info)
        if isinstance(raised, Partly):
            task_ready(self, successful=True)
            self._message.leave(raised.left, raised.alone)
            self.acknowledge()
            seconds = time.time() - cast(float, self.time_start)  # it was accepted before it could raise anything
            return self.send_event("task-succeeded", result=raised.summary, runtime=seconds)
        if isinstance(raised, Parked):
            self.acknowledge()
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        finally:
            EventConsumer.running.release(self._message)

    def acknowledge(self) -> None:
        super().acknowledge()
        EventConsumer.running.release(self._message)

    def reject(self, requeue: bool = False) -> None:
        every = range(len(self._message.arrivals))
        if len(every) > 1 and not self.acknowledged:
            self._message.leave(every, alone=every)
        super().reject(requeue)
        EventConsumer.running.release(self._message)


def _raised(exc_info: Any) -> Any:
    """What a task raised. A pool of threads leaves it wrapped up."""
    raised = exc_info.exception
    return raised.exc if isinstance(raised, ExceptionWithTraceback) else raised


class DeliveryTask(Task[Any, Any]):
    """Deliveries to one reaction: one, or those that waited together."""

    Request = f"{__name__}:DeliveryRequest"
    throws = (Parked,)
    ignore_result = True

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, batch: list[Delivery]) -> str:
        _connections.check()
        outcomes = handler.deliver_together(batch)
        later = [outcome for outcome in outcomes if isinstance(outcome, deliveries.Later)]
        if later:
            _connections.mistrust()
            _ladder.publish([outcome.again for outcome in later])
        for mail, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, deliveries.Left):
                _waiting.note(mail, outcome)
        left = {place: it.alone for place, it in enumerate(outcomes) if isinstance(it, deliveries.Left)}
        if left:
            raise Partly(_summary(outcomes), [*left], [place for place, alone in left.items() if alone])
        match outcomes[0]:
            case deliveries.Later(_, delay, error, down):
                raise Waits(describe(error), delay, down)
            case deliveries.Parked(error):
                raise Parked(describe(error))
        return _summary(outcomes)


def _summary(outcomes: Sequence[deliveries.Outcome | deliveries.Left]) -> str:
    """What Flower shows as the result: ``done``, or of a group ``97 done, 2 duplicate, 1 left``."""
    counts = Counter(type(outcome).__name__.lower() for outcome in outcomes)
    if len(outcomes) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {what}" for what, count in counts.items())


class Ladder:
    """The process's one connection for putting messages on the retry ladder, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._publisher = BrokerPublisher()
        self._stopping = threading.Event()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when the broker has the messages, however long that takes: without a ladder there is no going on.

        Raises:
            Reject: the worker is being stopped; the deliveries go back to the queue they came from.
        """
        pause = 0.1
        while True:
            try:
                with self._lock:
                    self._publisher.publish(messages)
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


class Connections(threading.local):
    """A thread's connections to the databases, checked once a second: a check is a round trip of its own.

    What comes in between and finds a connection broken waits on the ladder, as in any outage.
    """

    _checked_at = -math.inf

    def check(self) -> None:
        """Have those that are old or broken opened anew before they are used."""
        if time.monotonic() >= self._checked_at + _CHECKED_FOR:
            close_old_connections()
            self._checked_at = time.monotonic()

    def mistrust(self) -> None:
        """Something went wrong, maybe because of them: check them next time."""
        self._checked_at = -math.inf


_connections = Connections()
_ladder = Ladder()
_waiting = Waiting()


class LivingScheduler(Scheduler):
    """Beat's scheduler, in memory (all intervals are short), showing signs of life."""

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        liveness.sign("beat")
        return super().tick(*args, **kwargs)


def _tick(timer: Timer) -> Callable[[], None]:
    def tick() -> None:
        close_old_connections()
        with claimed(alias_of(timer.service), timer.name, [_TICK]) as claims:
            if claims:
                timer.function()
            else:
                log.info("tick skipped: the one before is not done", timer=timer.name)

    return tick


@signals.celeryd_init.connect
def _check_first(**kwargs: Any) -> None:
    """Celery runs Django's checks without looking at the result. What would lose events must stop the worker."""
    errors = [message for message in run_checks(tags=["choreography"]) if message.is_serious()]
    if errors:
        raise SystemExit("\n".join(str(message) for message in errors))


@signals.celeryd_after_setup.connect
def _settle(**kwargs: Any) -> None:
    """Before the pool starts, so that its children have it from their parent."""
    leave_imports_alone()


@signals.worker_ready.connect
def _show_life(sender: Any, **kwargs: Any) -> None:
    """From now on the worker shows that it lives: ``manage.py alive worker-orders``."""
    names = [f"worker-{service}" for service in sender.services]

    def sign() -> None:
        for name in names:
            liveness.sign(name)

    sign()
    sender.timer.call_repeatedly(5, sign)


@signals.worker_shutting_down.connect
def _stop_waiting(**kwargs: Any) -> None:
    _ladder.stop()
    if EventConsumer.running is not None:  # else it is stopped before it began
        EventConsumer.running.take_no_more()
        EventConsumer.running.circuits.stop()


@signals.worker_shutdown.connect
def _close_ladder(**kwargs: Any) -> None:
    _ladder.close()
