"""The shop in which actions happen: processes that can die, databases that can be away, a story of it all."""

import json
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from unittest.mock import patch
from uuid import UUID

from django.db import IntegrityError, OperationalError, connections

from choreography import testing
from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import NotYet, Outage, PublishFailed, Transient, Unusable
from choreography.dead_letters import actions
from choreography.events.timers import timers
from choreography.inbox import handler, unit_of_work
from choreography.inbox.deliveries import Duplicate, Outcome, Parked, RetryLater, Unhandled
from choreography.inbox.resuming import WaitingDeliveries
from choreography.outbox.announcing import transaction_of
from choreography.storage.tables import ServiceTables
from choreography.testing import Step
from choreography.worker.batching import Batcher
from choreography.worker.receiving import read_delivery
from orders.models import Order
from orders.services import cancel_if_open
from shipping.models import Shipment
from tests.invariants import Facts, Violation, at_any_moment, at_rest, every_order_ends
from tests.shop_in_a_box import TRACK_PARCELS, Crash, Shop
from tests.simulation.outside import Outside

#: Seconds of its time in which everything has to come to rest once faults have stopped.
REST_WITHIN = 3600.0
#: Seconds after which holds expire, and orders nobody has paid for are cancelled.
LIFETIME = 300.0
#: Seconds between two ticks of the timers, once faults have stopped.
BEAT = 60.0
#: Timers that remove old rows.
PURGE = ".purge_old_events"

_TO_MEND = ("tok_down", "unreachable")


class Violated(BaseException):
    """An invariant does not hold. No ``except Exception`` of the product stops it."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


@dataclass(frozen=True)
class Fault:
    """What befalls a process (a worker, a relay, a timer, a person's request) at one point of what it does.

    ``dies`` ends it; ``fails`` has the database, or the broker, leave it in the lurch from that point on. It ``is
    unlucky`` when the database refuses one statement, because of somebody else's lock.

    ==================  ============================================================================
    ``statement`` n     before its n-th SQL statement or commit
    ``before commit`` n before its n-th commit
    ``commit`` n        after its n-th commit, before it hears of it
    ``publish`` n       when the broker has taken n of its messages and confirmed none
    ``acknowledge`` n   when all is done and it has acknowledged n of its messages (only ``dies``)
    ==================  ============================================================================
    """

    how: Literal["dies", "fails", "is unlucky"]
    at: Literal["statement", "before commit", "commit", "publish", "acknowledge"]
    number: int = 0

    def __str__(self) -> str:
        return f"{self.how} at {self.at} {self.number}"


@dataclass
class Process:
    """One process at work."""

    fault: Fault | None = None
    statements: int = 0
    commits: int = 0
    acknowledged: int = 0

    def meets(self, how: str, at: str, number: int | None = None) -> bool:
        fault = self.fault
        return bool(fault and fault.how == how and fault.at == at and number in (None, fault.number))


@dataclass
class Worker:
    """One worker: what it has in memory is gone when it dies."""

    hands: list[Stored] = field(default_factory=list)
    """What the broker has sent it and has yet to arrive, in any order."""
    batcher: Batcher = field(default_factory=lambda: Batcher(conf().batch_size, slots=1))
    memory: WaitingDeliveries = field(default_factory=WaitingDeliveries)
    connection: object = field(default_factory=object)
    """What comes through one that is lost meanwhile comes again through the next."""

    def lose_connection(self) -> None:
        self.hands.clear()
        self.batcher.forget()
        self.connection = object()


class SimulatedShop(Shop):
    """The choreography, and what may go wrong in it. Create it inside ``clock.use_clock``."""

    outside: Outside

    def __init__(self, frozen: testing.FrozenClock, outside: Outside) -> None:
        super().__init__(frozen)
        self.outside = outside
        self.databases_down: set[str] = set()
        self.order_ids: list[UUID] = []
        self.told: list[str] = []
        self.number: int | None = None
        """The action that is happening."""
        self.level = 0
        """How deep in what happens during calls: the story's indentation."""
        self.outcomes_by_kind: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        """How many batches there were of how many deliveries."""
        self.in_hand: list[tuple[str, list[Stored]]] = []
        """What is being handled: service and messages, the innermost last."""
        self.ladder_faults: deque[Fault] = deque()
        """What the next deliveries meet that are to wait on a ladder."""
        self._processes: list[Process | None] = []
        self._workers: defaultdict[str, Worker] = defaultdict(Worker)
        self._facts = _Remembering()
        self._checked: tuple[int, ...] = ()

    # Processes

    @property
    def depth(self) -> int:
        """How many processes wait for an external system while something else happens."""
        return len(self._processes)

    @contextmanager
    def process(self, fault: Fault | None = None) -> Iterator[None]:
        """What happens inside is done by one process, which ``fault`` may befall."""
        self._processes.append(Process(fault))
        try:
            yield
        finally:
            self._processes.pop()

    @contextmanager
    def _nobody(self) -> Iterator[None]:
        """What happens inside is done by the simulation itself: no fault reaches it."""
        self._processes.append(None)
        try:
            yield
        finally:
            self._processes.pop()

    @contextmanager
    def databases_watched(self) -> Iterator[None]:
        """Faults reach the services' databases inside."""
        commits: dict[str, Callable[[], None]] = {}
        wrappers = []
        for service in self.services:
            connection = connections[ServiceTables(service).alias]
            commits[service] = connection.commit
            vars(connection)["commit"] = lambda service=service: self._commit(service, commits[service])
            wrapper = connection.execute_wrapper(self._statement)
            wrapper.__enter__()
            wrappers.append(wrapper)
        try:
            yield
        finally:
            for service, wrapper in zip(self.services, wrappers, strict=True):
                wrapper.__exit__(None, None, None)
                del vars(connections[ServiceTables(service).alias])["commit"]

    def _statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        process = self._processes[-1] if self._processes else None
        if process is not None:
            alias = context["connection"].alias
            if sql.startswith("BEGIN"):
                self.outside.let_happen(alias)
            self._reach(process, alias)
        return execute(sql, params, many, context)

    def _commit(self, service: str, commit: Callable[[], None]) -> None:
        process = self._processes[-1] if self._processes else None
        if process is not None:
            process.commits += 1
            try:
                self._reach(process, ServiceTables(service).alias)
                if process.meets("dies", "before commit", process.commits):
                    raise Crash
            except Crash:
                connections[ServiceTables(service).alias].rollback()
                raise
            if process.meets("fails", "before commit", process.commits):
                process.fault = Fault("fails", "statement", 0)
                raise OperationalError("server closed the connection unexpectedly")
        commit()
        if process is not None:
            if process.meets("dies", "commit", process.commits):
                raise Crash
            if process.meets("fails", "commit", process.commits):
                process.fault = Fault("fails", "statement", 0)
                raise OperationalError("server closed the connection unexpectedly")

    def _reach(self, process: Process, alias: str) -> None:
        process.statements += 1
        if process.meets("dies", "statement", process.statements):
            raise Crash
        if process.meets("is unlucky", "statement", process.statements):
            locked = sqlite3.OperationalError("database is locked")
            locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise OperationalError(str(locked)) from locked
        fault = process.fault
        gone = process.meets("fails", "statement") and fault is not None and process.statements >= fault.number
        if gone or alias in self.databases_down:
            raise OperationalError("could not connect to server: Connection refused")

    # The broker

    def publish(self, messages: Sequence[Outgoing]) -> None:
        process = self._processes[-1] if self._processes else None
        if not messages or process is None or process.fault is None or process.fault.at != "publish":
            return super().publish(messages)
        fault, process.fault = process.fault, None
        super().publish(messages[: fault.number])
        if fault.how == "dies":
            raise Crash
        raise PublishFailed(f"{len(messages)} message(s) unconfirmed")

    def relay(self, service: str) -> int:
        if service in self.databases_down or self._has_to_publish(service):
            return super().relay(service)
        return 0

    def _has_to_publish(self, service: str) -> bool:
        """Whether anything waits in an outbox: what the relay asks, without all that Django does for it."""
        connection: Any = connections[ServiceTables(service).alias].connection
        table = ServiceTables(service).outbox.model._meta.db_table
        query = f'SELECT 1 FROM "{table}" WHERE published_at IS NULL LIMIT 1'
        return connection is None or connection.execute(query).fetchone() is not None

    def put_on_ladder(self, messages: Sequence[Outgoing]) -> None:
        """As the worker does: until the broker has confirmed it."""
        process = self._processes[-1] if self._processes else None
        if process is not None and self.ladder_faults:
            process.fault = self.ladder_faults.popleft()
        try:
            super().put_on_ladder(messages)
        except PublishFailed:
            super().put_on_ladder(messages)

    def acknowledge(self, message: Stored) -> None:
        process = self._processes[-1] if self._processes else None
        if process is not None:
            if process.meets("dies", "acknowledge", process.acknowledged):
                raise Crash
            process.acknowledged += 1
        super().acknowledge(message)

    # Workers

    def work(self, service: str, position: int, together: int, fault: Fault | None) -> int:
        """Some of what the broker has sent to a worker arrives there, and it handles what it may handle next.

        Args:
            position: what arrives: the first, or a later one before it.
            together: how many arrive, one after the other.

        Returns:
            How many deliveries it took on; 0 if there was nothing to handle.
        """
        name = f"{service}-{self.depth}"
        worker = self._workers[name]
        while len(worker.hands) < position + together and (message := self.take(service, name)):
            worker.hands.append(message)
        first = max(min(position, len(worker.hands) - together), 0)
        for message in worker.hands[first : first + together]:
            worker.batcher.add(read_delivery(message, message.queue))
        del worker.hands[first : first + together]
        batch = worker.batcher.take()
        if batch:
            self.sizes[len(batch)] += 1
            messages = [delivery.message for delivery in batch]
            connection = worker.connection
            before, self.memory = self.memory, worker.memory
            self.in_hand.append((service, messages))
            try:
                with self.process(fault):
                    steps = self.handle_together(service, messages)
            except Crash:
                self.tell(f"{service} {_and_fault(fault)}with {self._about_all(messages)} in hand")
                del self._workers[name]
                self.lose_connections(name)
            else:
                unhandled = []
                for delivery, step in zip(batch, steps, strict=True):
                    if isinstance(step, Unhandled):
                        delivery.alone = delivery.alone or step.alone
                        unhandled.append(delivery)
                worker.batcher.release(batch, unhandled if connection is worker.connection else [])
            finally:
                self.in_hand.pop()
                self.memory = before
        return len(batch)

    def handle_together(self, service: str, messages: Sequence[Stored]) -> list[Step | Unhandled]:
        steps = super().handle_together(service, messages)
        together = f" ({len(messages)} together)" if len(messages) > 1 else ""
        for message, step in zip(messages, steps, strict=True):
            if isinstance(step, Unhandled):
                self.tell(f"{service} does not handle {self.about(message)}{together}")
                continue
            self.tell(f"{service} handles {self.about(message)}{together}: {_in_words(step.outcome)}")
            self.outcomes_by_kind[type(step.outcome).__name__] += 1
            if isinstance(step.outcome, RetryLater | Parked):
                self._refuse_bugs(service, step.outcome, message)
        return steps

    def _handle_all(self, service: str) -> int:
        handled = 0
        while taken := self.work(service, 0, conf().batch_size, None):
            handled += taken
        return handled

    @contextmanager
    def batches_watched(self) -> Iterator[None]:
        """What goes wrong in a batch is judged: on its own each delivery may go well, and hide the bug."""
        take_effect = unit_of_work.take_effect

        def judged(reaction: Any, items: Sequence[Any]) -> Any:
            try:
                return take_effect(reaction, items)
            except Exception as error:
                if len(items) > 1 and not _is_expected(error):
                    about = f"{reaction.name}, {len(items)} together: {type(error).__name__}: {error}"
                    raise Violated(Violation("no_batch_has_a_bug", None, about)) from error
                raise

        with patch.object(handler, "take_effect", judged):
            yield

    def _refuse_bugs(self, service: str, outcome: RetryLater | Parked, message: Stored) -> None:
        error = outcome.error
        kind = classify(error)
        about = f"{service}: {self.about(message)}: {type(error).__name__}: {error}"
        given_up = message.queue == topology.dead_queue(service).name
        if not (_is_expected(error) or (given_up and issubclass(kind, Unusable))):
            raise Violated(Violation("no_reaction_has_a_bug", None, about))
        if isinstance(outcome, Parked) and issubclass(kind, Outage):
            raise Violated(Violation("an_outage_is_no_poison", None, about))

    def lose_all_connections(self) -> None:
        """The broker takes all workers for dead, those that are busy now included. They go on, and don't know."""
        for name, worker in self._workers.items():
            worker.lose_connection()
            self.lose_connections(name)

    # Timers and people

    def tick_of(self, name: str, fault: Fault | None) -> None:
        """One tick of a timer. What it raises is lost, as in a worker; a bug is not."""
        if name.endswith(PURGE):
            with self._nobody():
                self._facts.remember()
        try:
            with self.process(fault):
                self.tick(name)
        except Crash:
            self.tell(f"{name} {_and_fault(fault)}")
        except Exception as error:
            faults = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
            for each in faults:
                if not issubclass(classify(each), Transient):
                    raise Violated(
                        Violation("no_timer_has_a_bug", None, f"{name}: {type(each).__name__}: {each}")
                    ) from error
            self.tell(f"{name} ticks and fails: {', '.join(type(each).__name__ for each in faults)}")
        else:
            self.tell(f"{name} ticks")

    def find_orders(self) -> None:
        """Learn which orders there are: a customer may not have heard that one was placed."""
        with self._nobody():
            self.order_ids = list(Order.objects.order_by("pk").values_list("pk", flat=True))

    # How things stand

    def check(self) -> None:
        """What must always hold does.

        Raises:
            Violated: it does not.
        """
        with self._nobody():
            changed = (_changes("orders"), self.outside.asked)
            if changed == self._checked:
                return
            self._checked = changed
            self._facts.forget("orders", "booked", "parcels")
            for violation in at_any_moment(self._facts):
                raise Violated(violation)

    def make_peace(self) -> None:
        """No more faults. People cancel what can't go on by itself, send again what is parked, and all comes to rest.

        Raises:
            Violated: it does not come to rest, or not to a good one.
        """
        self.tell("Peace: from now on nothing fails.")
        self.outside.mend()
        self.ladder_faults.clear()
        self.databases_down.clear()
        self.lose_all_connections()
        for order in Order.objects.order_by("pk"):
            if any(word in f"{order.payment_token} {order.street}".lower() for word in _TO_MEND):
                cancel_if_open_now(order.pk)
        self.rest()
        if self.parked():
            for service, dead_letter in self.parked():
                self.tell(f"someone sends {service}'s dead letter {dead_letter.pk} again")
                actions.send_again(dead_letter, self)
            self.rest()
        for service, dead_letter in self.parked():
            raise Violated(
                Violation("a_dead_letter_sent_again_takes_effect", dead_letter.subject, f"{service}: {dead_letter}")
            )
        left = [f"{queue.name} {queue.ready}" for queue in self.broker.queues() if queue.ready or queue.unacked]
        if left:
            raise Violated(Violation("the_broker_is_empty_at_rest", None, ", ".join(left)))
        self._facts.forget()
        for violation in at_rest(self._facts):
            raise Violated(violation)

    def rest(self) -> None:
        """Come to rest, within bounds: nothing is due on a ladder, under way with the carrier, or left to a timer.

        Raises:
            Violated: it does not.
        """
        begin = beat = self.time.now()
        while True:
            if self.drain():
                continue
            due = self.broker.next_due()
            if due is not None:
                self.time.advance(max(due - self.time.now().timestamp(), 0) + 0.001)
            elif Shipment.objects.under_way().exists():
                self.time.advance(5)
                self.tick(TRACK_PARCELS)
            else:
                self._refuse_to_leave_it_to_a_timer()
                self.time.advance(LIFETIME + 1)
                self._beat()
                if not self.drain():
                    return
            if (self.time.now() - beat).total_seconds() >= BEAT:
                beat = self.time.now()
                self._beat()
            if (seconds := (self.time.now() - begin).total_seconds()) > REST_WITHIN:
                raise Violated(Violation("every_flow_ends", None, f"there is no rest after {seconds:.0f} s"))

    def _refuse_to_leave_it_to_a_timer(self) -> None:
        """An order that only ends because something has grown too old was forgotten.

        Not where the provider has let go of the money and payments has yet to enter it: that is the timer's work.
        """
        facts = Facts()
        for order_id, detail in every_order_ends(facts):
            payment = facts.payments.get(order_id) if order_id else None
            if order_id and (payment is None or payment.held == facts.held(order_id)):
                raise Violated(
                    Violation("every_flow_ends", order_id, f"{order_id}: {detail}, and nothing is under way")
                )

    def _beat(self) -> None:
        for name in timer_names():
            if not name.endswith(PURGE):
                self.tick(name)

    def parked(self) -> list[tuple[str, Any]]:
        """The dead letters that wait for a person, with their service."""
        if not self.outcomes_by_kind[Parked.__name__]:
            return []
        return [
            (service, dead_letter)
            for service in self.services
            for dead_letter in ServiceTables(service).dead_letters.filter(state="parked").order_by("pk")
        ]

    # The story

    def tell(self, what: str) -> None:
        number = "" if self.number is None else self.number
        self.told.append(f"{number:>4}  {'    ' * self.level}{self.in_short(what)}")

    def in_short(self, text: str) -> str:
        """Ids of orders as people count them."""
        for number, order_id in enumerate(self.order_ids):
            text = text.replace(str(order_id), f"order {number}")
        return text

    def about(self, message: Stored) -> str:
        event_type, order_id = _envelope(message)
        return f"{order_id}'s {event_type.partition('.')[2].rpartition('.')[0]}"

    def _about_all(self, messages: Sequence[Stored]) -> str:
        return ", ".join(map(self.about, messages))


class _Remembering(Facts):
    """Facts that can be read anew, and that know rows which were purged since."""

    def __init__(self) -> None:
        super().__init__()
        self._remembered: dict[tuple[str, str], dict[int, Any]] = {}

    def remember(self) -> None:
        """Keep the rows of the outboxes and inboxes that there are now."""
        for table in ("outbox", "inbox"):
            for service, row in super()._rows_of_services(table):
                self._remembered.setdefault((service, table), {})[row.pk] = row

    def forget(self, *names: str) -> None:
        """Read these, or everything, anew when it is asked for next."""
        for name, value in list(vars(type(self).__mro__[1]).items()):
            if isinstance(value, cached_property) and (not names or name in names):
                vars(self).pop(name, None)

    def _rows_of_services(self, table: str) -> Iterator[tuple[str, Any]]:
        there = set()
        for service, row in super()._rows_of_services(table):
            there.add((service, row.pk))
            yield service, row
        for (service, of), rows in self._remembered.items():
            for pk, row in rows.items():
                if of == table and (service, pk) not in there:
                    yield service, row


def cancel_if_open_now(order_id: UUID) -> None:
    """A person sees that an order can't go on."""
    with transaction_of("orders"), Order.objects.locked([order_id]) as [order]:
        cancel_if_open(order, "customer_request")


def order_of(message: Stored) -> UUID:
    """The order a message is about."""
    return _envelope(message)[1]


def timer_names() -> list[str]:
    """Every timer, sorted."""
    return sorted(timer.name for timer in timers())


def _envelope(message: Stored) -> tuple[str, UUID]:
    event = json.loads(message.body)
    return str(event["type"]), UUID(event["subject"])


def _is_expected(error: Exception) -> bool:
    """Whether it is something the simulation makes happen, rather than a bug."""
    return issubclass(classify(error), NotYet | Transient) and not isinstance(error, IntegrityError)


def _in_words(outcome: Outcome) -> str:
    match outcome:
        case RetryLater(_, delay, error):
            return f"again in {delay:.1f} s ({type(error).__name__})"
        case Parked(error):
            return f"parked ({type(error).__name__})"
        case Duplicate():
            return "a duplicate"
        case _:
            return "done"


def _and_fault(fault: Fault | None) -> str:
    return f"{fault} " if fault else "dies "


def _changes(service: str) -> int:
    connection: Any = connections[ServiceTables(service).alias].connection
    return int(connection.total_changes) if connection is not None else 0
