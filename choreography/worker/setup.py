"""Celery at the edge: a plain CloudEvents message becomes one task, named after the reaction, in one hop.

``install(app)`` gives a Celery app everything. What happens to a message inside a worker:

1. ``consumer.EventConsumer`` looks at it before Celery does. Every message but a tick of our own timers waits among
   others (``batching``) until the pool has room. Then those that wait for one reaction become one task, named after it,
   or after ``<service>.park_unusable_message`` (``batches``).
2. The task (``tasks``) hands them to ``inbox.handler`` and carries the outcome out: it returns (acknowledged),
   publishes to the retry ladder and raises ``DeliveryRetried`` (acknowledged once the ladder has confirmed), or raises
   ``DeliveryParked`` (acknowledged, shown as failed). What failed in a batch is handled again in a task of its own.
3. A retry because of an outage makes the consumer probe the database or the external system (``circuit_breaker``);
   while it is down, the service's messages stay in their queue.
4. Whatever else goes wrong (Celery refusing the task) rejects the message to the dead-letter exchange (``requests``).
   The message of a child that was killed goes back to its queue, and to the dead-letter exchange when the broker gives
   it up. The same worker reads ``<service>.dead`` and parks it. Nothing is acknowledged that was not dealt with.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import billiard.pool
from celery import Celery, signals
from celery.beat import Scheduler
from celery.utils.text import str_to_list
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from kombu.utils.url import maybe_sanitize_url

from choreography.broker import topology, transports
from choreography.core import liveness, metrics
from choreography.core.conf import conf
from choreography.core.garbage_collection import freeze_imports
from choreography.events.registry import reactions
from choreography.events.timers import Timer, timers
from choreography.inbox.deliveries import parking_task
from choreography.storage.migrations import Unmigrated, refuse_unmigrated
from choreography.worker import remote_control  # noqa: F401  (registers its commands)
from choreography.worker.consumer import EventConsumer
from choreography.worker.tasks import DeliveryTask, ladder, tick_of


def install(app: Celery) -> None:
    """Give a Celery app the queues, tasks, timers and settings of the services this process knows."""
    _refuse_another_broker()
    transports.register()
    _end_children_soon()
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
        # Database connections outlive a task; ``tasks.Connections`` checks them.
        CELERY_DB_REUSE_MAX=sys.maxsize,
        # At least once: an acknowledgement only ever follows a commit.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        # Enough to fill a batch for each of the pool's slots.
        worker_prefetch_multiplier=conf().batch_size,
        # After a reconnect Celery would widen a reduced prefetch from the pool's threads, and they would wait for the
        # broker's reply on the connection the event loop reads from.
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
        app.register_task(DeliveryTask(parking_task(service)))
    for timer in timers():
        app.task(name=timer.name, acks_on_failure=True, ignore_result=True, send_events=False)(tick_of(timer))
    app.conf.beat_schedule = {timer.name: _schedule_of(timer) for timer in timers()}


def _end_children_soon() -> None:
    """Have a child of a prefork pool that ends wait 3 s, not 30 s, until its parent has read its last result.

    When a worker is stopped, Celery discards what it has just given to a child (``AsynPool.flush``), and then does not
    read the result. Nothing is lost: the delivery comes again, as a duplicate.
    """
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 30


def _refuse_another_broker() -> None:
    """Celery prefers these variables to its settings: workers would consume from another broker than relays publish to.

    Raises:
        ImproperlyConfigured: one is set to another broker.
    """
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        url = os.environ.get(name)
        if url and url != conf().broker_url:
            raise ImproperlyConfigured(
                f"{name} leads to {maybe_sanitize_url(url)}, CHOREOGRAPHY['BROKER_URL'] to "
                f"{maybe_sanitize_url(conf().broker_url)}. There is one broker: remove {name} from the environment."
            )


def _schedule_of(timer: Timer) -> dict[str, Any]:
    """A timer's entry in beat's schedule: its ticks go to a queue of their own, and expire when they come too late."""
    return {
        "task": timer.name,
        "schedule": timer.seconds,
        "options": {
            "queue": topology.timer_queue(timer.service).name,
            "exchange": topology.timer_exchange(timer.service).name,
            "routing_key": timer.service,
            # A time to live, which the broker counts: Celery's ``expires`` compares the clocks of two hosts.
            # At most a minute: RabbitMQ looks at the oldest message alone.
            "expiration": min(max(timer.seconds * 2, 10), 60),
        },
    }


class LivingScheduler(Scheduler):
    """Beat's scheduler, in memory (all intervals are short), showing signs of life.

    It counts intervals by the monotonic clock. Celery's compares times of day, and sends nothing for an hour after the
    clock was set back by one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._due: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due. Returns the seconds until something is due again."""
        liveness.show("beat")
        entries: Any = self.schedule  # the stubs know no intervals
        for name, entry in entries.items():
            interval = entry.schedule.run_every.total_seconds()
            if time.monotonic() >= self._due.setdefault(name, time.monotonic() + interval):
                self.apply_entry(entry, producer=self.producer)
                self._due[name] = time.monotonic() + interval
        wait = min(self._due.values(), default=math.inf) - time.monotonic()
        return max(0.0, min(wait, self.max_interval or math.inf))


@signals.beat_init.connect
def _end_beat_once(**kwargs: Any) -> None:
    """Celery's own handler takes a lock, which it may hold already when a second signal comes: then beat hung."""

    def end(*_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


@signals.celeryd_init.connect
def _check_first(instance: Any, options: Mapping[str, Any], **kwargs: Any) -> None:
    """Celery runs Django's checks without looking at the result. What would lose events must stop the worker."""
    errors = [message for message in run_checks(tags=["choreography"]) if message.is_serious()]
    if errors:
        raise SystemExit("\n".join(str(message) for message in errors))
    known, wanted = instance.app.amqp.queues, str_to_list(options.get("queues", ())) or ()
    unknown = [name for name in wanted if name not in known and name not in known.aliases]
    if unknown:
        raise SystemExit(
            f"-Q names {', '.join(unknown)}, which is no queue of this process. "
            f"Its services have {', '.join(conf().services)}."
        )


@signals.celeryd_after_setup.connect
def _check_migrations(instance: Any, **kwargs: Any) -> None:
    consumed = instance.app.amqp.queues.consume_from
    try:
        refuse_unmigrated([service for service in conf().services if topology.queue_name(service) in consumed])
    except Unmigrated as error:
        raise SystemExit(str(error)) from None
    connections.close_all()  # the pool's children need their own


@signals.celeryd_after_setup.connect
def _prepare(instance: Any, **kwargs: Any) -> None:
    """Before the pool starts, so that its children have it from their parent."""
    metrics.start()
    freeze_imports()

    def stop(**kwargs: Any) -> None:
        ladder.stop()
        if getattr(instance, "consumer", None) is not None:  # else it is stopped before it began
            instance.consumer.stop_taking()

    signals.worker_shutting_down.connect(stop, weak=False)


@signals.worker_ready.connect
def _show_life(sender: Any, **kwargs: Any) -> None:
    """From now on the worker shows that it is alive: ``manage.py alive worker-orders``."""
    names = [f"worker-{service}" for service in sender.services]

    def show() -> None:
        for name in names:
            liveness.show(name)

    show()
    sender.timer.call_repeatedly(5, show)


@signals.worker_shutdown.connect
def _close_ladder(**kwargs: Any) -> None:
    ladder.close()
