"""The whole choreography in one process, for tests: an in-memory broker, and a clock that stands still.

Everything else is the real thing: reactions, outboxes, inboxes, retry policy, databases. ::

    with frozen_clock() as clock:
        choreography = Choreography(clock)
        place_order()
        choreography.settle()

The broker is the embedded broker's own store, kept in memory and on the frozen clock.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

from kombu import Exchange, Queue

from choreography.broker import topology
from choreography.broker.embedded.store import Store, Stored
from choreography.broker.publisher import Outgoing, published_to
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import Unusable
from choreography.events.messages import CONTENT_TYPE, Event, events_in, in_structured_mode, is_batched, parse_type
from choreography.events.registry import Reaction, overridden
from choreography.events.timers import timers
from choreography.inbox.deliveries import Delivery, Outcome, RetryLater, Unhandled, reason_of_death
from choreography.inbox.handler import handle
from choreography.inbox.resuming import WaitingDeliveries
from choreography.outbox.relay import publish_waiting
from choreography.outbox.reports import publish_reports

#: Who takes messages, where one worker for all services will do.
_WORKER = "testing"


class FrozenClock:
    """A clock that moves when told; ids and jitter come from a seed."""

    def __init__(self, seed: int = 1, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._random = Random(seed)  # noqa: S311 (repeatable on purpose)
        self._now = start
        self._ids = 0

    def now(self) -> datetime:
        return self._now

    def new_id(self) -> UUID:
        """A UUIDv7 of the frozen time, rising even while it stands still (RFC 9562, section 5.7)."""
        self._ids += 1
        milliseconds = int(self._now.timestamp() * 1000)
        low = self._ids << 20 | self._random.getrandbits(20)
        return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62 | low)

    def jitter(self) -> float:
        return self._random.random()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)


@contextmanager
def frozen_clock(seed: int = 1) -> Iterator[FrozenClock]:
    """Use a ``FrozenClock`` for the duration, in every thread of the process."""
    frozen = FrozenClock(seed)
    with clock.use_clock(frozen):
        yield frozen


@contextmanager
def override(reaction: str, **changes: Any) -> Iterator[Reaction]:
    """Change a reaction for the duration: ``override("payments.authorize_payment", function=fail)``.

    Args:
        reaction: its name.
        changes: attributes of ``events.registry.Reaction``.

    Yields:
        The reaction as it was before.

    Raises:
        KeyError: there is no such reaction.
    """
    with overridden(reaction, **changes) as original:
        yield original


@dataclass(frozen=True)
class Step:
    """One delivery that was handled."""

    service: str
    message: Stored
    outcome: Outcome


class Choreography:
    """All services of this process around one in-memory broker. Create it inside ``frozen_clock()``."""

    def __init__(self, frozen: FrozenClock, services: Iterable[str] | None = None) -> None:
        self.services = list(conf().services if services is None else services)
        self.broker = Store(":memory:", now=lambda: clock.now().timestamp())
        self.steps: list[Step] = []
        self.memory = WaitingDeliveries()
        self._clock = frozen
        self._ticked: dict[str, datetime] = {}
        #: Events of messages that hold several: taken by each worker and not handed out, and by tag how many are left.
        self._events: dict[tuple[str, str], deque[Stored]] = {}
        self._unacknowledged: dict[str, int] = {}
        self._queues = {service: [queue.name for queue in topology.worker_queues(service)] for service in self.services}
        for service in self.services:
            for exchange in topology.exchanges(service):
                self._declare_exchange(exchange)
            for queue in topology.queues(service):
                self._declare_queue(queue)

    # As a publisher (see publishing.Publisher)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Put messages on the broker, as the relay or a foreign program does."""
        for message in messages:
            self.broker.publish(
                message.exchange,
                message.routing_key,
                message.body,
                content_type=message.content_type,
                headers=message.headers,
                expiration_ms=None if message.expiration is None else int(message.expiration * 1000),
            )

    def publish_event(
        self, event_type: str, *, subject: str, data: Mapping[str, Any] | None = None, event_id: UUID | None = None
    ) -> UUID:
        """Publish an event as the service whose fact it is would, so that a service can be tested by itself.

        Args:
            event_type: ``"kitchen.dish_cooked.v1"``; its publisher need not be part of this process.
            subject: what it is about.
            data: what its readers read; nothing checks it against a contract.
            event_id: of an event that was published before, to publish it again.

        Returns:
            The event's id.
        """
        event = Event[Any](
            id=event_id or clock.new_id(),
            type=event_type,
            source=parse_type(event_type).service,
            subject=subject,
            time=clock.now(),
            correlationid=subject,
            data=dict(data or {}),
        )
        self.publish([Outgoing(event.to_json().encode(), event_type)])
        return event.id

    def close(self) -> None:
        self.broker.close()

    # One step at a time

    def relay(self, service: str) -> int:
        """Move what waits in a service's outbox. Returns how many events."""
        published = publish_waiting(service, self)
        publish_reports(service, self)
        return published

    def handle_next(self, service: str) -> Step | None:
        """Handle the next message in a service's inbox, or among its dead ones; ``None`` if there is none."""
        message = self.take(service)
        return None if message is None else self.handle(service, message)

    def take(self, service: str, worker: str = _WORKER) -> Stored | None:
        """Reserve the next message in a service's inbox, or among its dead ones, for one of its workers.

        Of a message that holds several events each is taken by itself.
        """
        waiting = self._events.setdefault((service, worker), deque())
        while not waiting:
            message = self.broker.get(self._queues[service], worker)
            if message is None or not is_batched(message.content_type):
                return message
            try:
                bodies = events_in(message.body)
            except Unusable:
                return message
            self._unacknowledged[message.tag] = len(bodies)
            waiting.extend(replace(message, body=body, content_type=CONTENT_TYPE) for body in bodies)
            if not bodies:
                self.broker.ack(message.tag)
        return waiting.popleft()

    def handle(self, service: str, message: Stored) -> Step:
        """Handle a message that was taken, and acknowledge it."""
        [step] = self.handle_together(service, [message])
        return cast(Step, step)  # a single delivery is never Unhandled

    def handle_together(self, service: str, messages: Sequence[Stored]) -> list[Step | Unhandled]:
        """Handle messages that were taken, of one reaction, in one transaction; acknowledge what was handled."""
        deliveries = [_delivery(service, message) for message in messages]
        outcomes = handle(deliveries)
        again = [outcome.again for outcome in outcomes if isinstance(outcome, RetryLater)]
        if again:
            self.put_on_ladder(again)
        steps: list[Step | Unhandled] = []
        for delivery, message, outcome in zip(deliveries, messages, outcomes, strict=True):
            if isinstance(outcome, Unhandled):
                steps.append(outcome)
            else:
                self.memory.update(delivery, outcome)
                steps.append(Step(service, message, outcome))
        dealt_with = [step for step in steps if isinstance(step, Step)]
        for step in dealt_with:
            self.acknowledge(step.message)
        self.steps += dealt_with
        return steps

    def put_on_ladder(self, messages: Sequence[Outgoing]) -> None:
        """Have deliveries wait for their next attempt."""
        self.publish(messages)

    def acknowledge(self, message: Stored) -> None:
        """Tell the broker that a message was dealt with. Does nothing if it was taken back meanwhile."""
        self._unacknowledged[message.tag] = self._unacknowledged.get(message.tag, 1) - 1
        if self._unacknowledged[message.tag] == 0:
            del self._unacknowledged[message.tag]
            self.broker.ack(message.tag)

    def lose_connections(self, worker: str = _WORKER) -> None:
        """The broker takes a worker for dead: what it has taken and not acknowledged comes again."""
        for service in self.services:
            self._events.pop((service, worker), None)
        self.broker.release(worker)

    def tick(self, name: str | None = None) -> None:
        """Run every timer once, or the one named ``shipping.track_parcels``."""
        for timer in timers():
            if timer.service in self.services and name in (None, timer.name):
                self._ticked[timer.name] = clock.now()
                with published_to(self):
                    timer.function()

    # All of it

    def drain(self) -> int:
        """Relay and handle until nothing is left to do at this moment. Returns how many deliveries were handled."""
        before = len(self.steps)
        while any([self.relay(service) for service in self.services] + [self._handle_all(s) for s in self.services]):
            continue
        return len(self.steps) - before

    def settle(self, quiet: float = 20.0, limit: float = 3600.0) -> None:
        """Let time pass, with timers ticking, until nothing has happened for ``quiet`` seconds of it.

        Raises:
            AssertionError: it has not settled after ``limit`` seconds of its time.
        """
        start = last = clock.now()
        while (clock.now() - last).total_seconds() < quiet or self.waiting():
            if (clock.now() - start).total_seconds() > limit:
                raise AssertionError(f"not settled after {limit} s: {self.waiting()} message(s) on the ladder")
            if self.drain():
                last = clock.now()
            self._clock.advance(1.0)
            self._tick_as_beat_does()

    def _tick_as_beat_does(self) -> None:
        """Run the timers whose interval is over."""
        for timer in timers():
            last = self._ticked.get(timer.name)
            if last is None or (clock.now() - last).total_seconds() >= timer.seconds:
                self.tick(timer.name)

    def waiting(self) -> int:
        """How many messages are on the retry ladders."""
        return sum(
            self.broker.size(queue.name) for service in self.services for queue in topology.retry_queues(service)
        )

    def _handle_all(self, service: str) -> int:
        handled = 0
        while self.handle_next(service):
            handled += 1
        return handled

    def _declare_exchange(self, exchange: Exchange) -> None:
        self.broker.declare_exchange(exchange.name, exchange.type)

    def _declare_queue(self, queue: Queue) -> None:
        self.broker.declare_queue(queue.name, queue.queue_arguments or {})
        bindings: Iterable[Any] = queue.bindings or ()
        for bound in bindings:
            self._declare_exchange(bound.exchange)
            self.broker.bind(queue.name, bound.exchange.name, bound.routing_key or "")


def _delivery(service: str, message: Stored) -> Delivery:
    is_dead = message.queue == topology.dead_queue(service).name
    given_up = reason_of_death(message.headers) if is_dead else None
    return Delivery(service, *in_structured_mode(message.body, message.content_type, message.headers), given_up)
