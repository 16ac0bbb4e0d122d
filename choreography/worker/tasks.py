"""The Celery tasks: deliveries to one reaction, and ticks of timers. They run in a thread or process of the pool."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from celery import Task
from celery.exceptions import Reject
from django.db import DatabaseError, InterfaceError, close_old_connections, connections

from choreography.broker.publisher import BrokerPublisher, Outgoing
from choreography.core.conf import conf
from choreography.core.errors import PublishRefused, Transient, Unroutable, describe
from choreography.events.timers import Timer
from choreography.inbox import handler, suspects
from choreography.inbox.deliveries import DATABASE, Delivery, Outcome, Parked, RetryLater, Unhandled
from choreography.inbox.resuming import WaitingDeliveries
from choreography.outbox.relay import declare_topology
from choreography.storage.claims import claimed
from choreography.worker.requests import DeliveryParked, DeliveryRequest, DeliveryRetried, PartlyHandled

log = structlog.get_logger(__name__)

#: Seconds for which a connection to a database is trusted.
_CHECK_EVERY = 1.0
#: How often the topology is declared for a message whose rung does not exist, before the message is given up.
_DECLARATIONS = 5
#: Every tick of a timer makes the same claim.
_TICK = UUID(int=0)


class DeliveryTask(Task[Any, Any]):
    """Deliveries to one reaction: one, or those that waited together."""

    Request = f"{DeliveryRequest.__module__}:{DeliveryRequest.__name__}"
    throws = (DeliveryParked,)
    ignore_result = True

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, deliveries: list[Delivery]) -> str:
        _connections.check()
        outcomes = _handle_suspects(deliveries) if deliveries[0].exclusive else _handle(deliveries)
        retries = {index: outcome.again for index, outcome in enumerate(outcomes) if isinstance(outcome, RetryLater)}
        if retries:
            _connections.distrust()
            if any(isinstance(outcome, RetryLater) and outcome.down == DATABASE for outcome in outcomes):
                # After a failover a session may be one that can't write. Django would keep it: it answers a SELECT.
                connections.close_all()
            for index, reason in _put_on_ladder(retries).items():
                outcomes[index] = _park(deliveries[index], reason)
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if not isinstance(outcome, Unhandled):
                _waiting.update(delivery, outcome)
        again = {index: it.alone for index, it in enumerate(outcomes) if isinstance(it, Unhandled)}
        if again:
            raise PartlyHandled(_summary(outcomes), [*again], [index for index, alone in again.items() if alone])
        match outcomes[0]:
            case _ if len({type(outcome) for outcome in outcomes}) > 1:
                pass
            case RetryLater(_, delay, error, down):
                raise DeliveryRetried(_shared(describe(error), outcomes), delay, down)
            case Parked(error):
                raise DeliveryParked(_shared(describe(error), outcomes))
        return _summary(outcomes)


def _handle(deliveries: Sequence[Delivery]) -> list[Outcome | Unhandled]:
    return handler.handle(deliveries, conf().calls_at_once)


def _handle_suspects(deliveries: Sequence[Delivery]) -> list[Outcome | Unhandled]:
    begun = suspects.begin(deliveries)
    outcomes = dict(zip([each.key for each in begun], _handle(begun) if begun else [], strict=True))
    suspects.end(outcomes, deliveries[0].service)
    handled = {id(each): outcomes[each.key] for each in begun}
    return [handled.get(id(each), Unhandled(alone=True)) for each in deliveries]


def _put_on_ladder(messages: Mapping[int, Outgoing]) -> dict[int, str]:
    """Publish messages to the retry ladder. Returns those that it will never take, with the reason."""
    try:
        ladder.publish([*messages.values()])
    except PublishRefused as refused:
        indexes = [*messages]
        return {indexes[position]: reason for position, reason in refused.reasons.items()}
    return {}


def _park(delivery: Delivery, reason: str) -> Outcome:
    """Park a delivery that can't be retried.

    Raises:
        Reject: it can't be parked at this moment either; it goes back to its queue.
    """
    outcome = handler.give_up(delivery, reason)
    if isinstance(outcome, RetryLater):
        raise Reject(reason, requeue=True)
    return outcome


def _shared(what: str, outcomes: Sequence[Outcome | Unhandled]) -> str:
    """Of a batch that has one outcome, what Flower shows as the error."""
    return what if len(outcomes) == 1 else f"{_summary(outcomes)}, the first because: {what}"


def _summary(outcomes: Sequence[Outcome | Unhandled]) -> str:
    """What Flower shows as the result: ``done``, or of a batch ``97 done, 2 duplicate, 1 unhandled``."""
    counts = Counter(type(outcome).__name__.lower() for outcome in outcomes)
    if len(outcomes) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def tick_of(timer: Timer) -> Callable[[], None]:
    """The task of a timer. It is skipped while the one before still runs."""

    def tick() -> None:
        close_old_connections()
        try:
            with claimed(timer.service, timer.name, [_TICK]) as claims:
                if claims.event_ids:
                    timer.function()
                else:
                    log.info("tick skipped: the one before still runs", timer=timer.name)
        except (DatabaseError, InterfaceError):
            connections.close_all()  # as in ``DeliveryTask.run``
            raise

    return tick


class RetryLadder:
    """The process's one connection for publishing to the retry ladder, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._publisher = BrokerPublisher()
        self._stopping = threading.Event()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when the broker has the messages, however long that takes: without a ladder nothing can be retried.

        Raises:
            Reject: the worker is being stopped; the deliveries go back to the queue they came from.
            PublishRefused: the broker will never take some of them, or their rung can't be declared; it has the others.
        """
        pause, unroutable = 0.1, 0
        while True:
            try:
                with self._lock:
                    self._publisher.publish(messages)
                break
            except Transient as down:
                unroutable += isinstance(down, Unroutable)
                if unroutable > _DECLARATIONS:
                    self._publish_each(messages, down)
                    break
                _declare()
                log.warning("retry ladder waits", seconds=pause, error=type(down).__name__, detail=str(down))
                if self._stopping.wait(pause):
                    raise Reject(str(down), requeue=True) from down
                pause = min(pause * 2, 5.0)

    def _publish_each(self, messages: Sequence[Outgoing], error: Transient) -> None:
        if len(messages) == 1:
            raise PublishRefused({0: str(error)}) from error
        reasons: dict[int, str] = {}
        for index, message in enumerate(messages):
            try:
                self.publish([message])
            except PublishRefused as refused:
                reasons[index] = str(refused)
        if reasons:
            raise PublishRefused(reasons)

    def stop(self) -> None:
        """Wait for the broker no longer."""
        self._stopping.set()

    def close(self) -> None:
        with self._lock:
            self._publisher.close()


def _declare() -> None:
    """A rung may have been deleted."""
    try:
        declare_topology()
    except Transient as error:
        log.warning("topology not declared", error=str(error))


class Connections(threading.local):
    """A thread's connections to the databases, checked once a second: a check is a round trip of its own.

    A delivery in between that finds a connection broken waits on the ladder, as in any outage.
    """

    _checked_at = -math.inf

    def check(self) -> None:
        """Have those that are old or broken opened anew before they are used."""
        if time.monotonic() >= self._checked_at + _CHECK_EVERY:
            close_old_connections()
            self._checked_at = time.monotonic()

    def distrust(self) -> None:
        """Something went wrong, maybe because of them: check them next time."""
        self._checked_at = -math.inf


ladder = RetryLadder()
_connections = Connections()
_waiting = WaitingDeliveries()
