"""All services in one process, whose processes can die and whose databases can be down; and the story of it."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args
from unittest.mock import patch

from django.db import IntegrityError, OperationalError, connections

from choreography.broker import topology
from choreography.broker.embedded.store import Stored
from choreography.broker.publisher import Outgoing
from choreography.core.classification import classify
from choreography.core.conf import conf
from choreography.core.errors import NotYet, Outage, PublishFailed, Transient, Unusable
from choreography.dead_letters import actions
from choreography.events.registry import reactions
from choreography.events.timers import timers
from choreography.inbox import handler, unit_of_work
from choreography.inbox.deliveries import Duplicate, Outcome, Parked, RetryLater, Unhandled
from choreography.inbox.resuming import WaitingDeliveries
from choreography.simulation.faults import Crash, Fault, Process, Violated, Violation, locked
from choreography.storage.tables import ServiceTables
from choreography.testing import Choreography, FrozenClock, Step, override
from choreography.worker.batching import Batcher
from choreography.worker.receiving import read_delivery

#: Seconds of its time in which everything has to settle once faults have stopped.
REST_WITHIN = 3600.0
#: Seconds between two ticks of the timers, once faults have stopped.
BEAT = 60.0
#: Timers that delete old rows.
PURGE = ".purge_old_events"
#: A subject longer than this is given a short name in the story.
_LONG = 20

CallFault = Literal["fails", "is down", "loses the answer", "dies before", "dies after"]
CALL_FAULTS: tuple[CallFault, ...] = get_args(CallFault)
"""What one external call can meet. In the last two the calling process dies, before or after the call took effect."""


@dataclass
class Worker:
    """One worker: what it has in memory is gone when it dies."""

    received: list[Stored] = field(default_factory=list)
    """What the broker has sent it and has yet to arrive, in any order."""
    batcher: Batcher = field(default_factory=lambda: Batcher(conf().batch_size, slots=1))
    memory: WaitingDeliveries = field(default_factory=WaitingDeliveries)
    connection: object = field(default_factory=object)
    """What comes through one that is lost meanwhile comes again through the next."""

    def lose_connection(self) -> None:
        self.received.clear()
        self.batcher.forget()
        self.connection = object()


class SimulatedSystem(Choreography):
    """The choreography, and what may go wrong in it. Create it inside ``frozen_clock()``."""

    def __init__(self, frozen: FrozenClock, services: Iterable[str] | None = None) -> None:
        super().__init__(frozen, services)
        self.time = frozen
        self.databases_down: set[str] = set()
        self.call_faults: defaultdict[str, deque[CallFault]] = defaultdict(deque)
        """What the next external calls of a reaction will meet."""
        self.meanwhile: defaultdict[str, deque[Callable[[], None]]] = defaultdict(deque)
        """What happens before a service's next transactions begin, or during the next external calls of a reaction."""
        self.told: list[str] = []
        """The story so far."""
        self.number: int | None = None
        """The action that is happening."""
        self.level = 0
        """How deep in what happens meanwhile: the story's indentation."""
        self.outcomes_by_kind: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        """How many batches there were of how many deliveries."""
        self.in_hand: list[tuple[str, list[Stored]]] = []
        """What is being handled: service and messages, the innermost last."""
        self.ladder_faults: deque[Fault] = deque()
        """What the next deliveries meet that are to wait on a ladder."""
        self._processes: list[Process | None] = []
        self._workers: defaultdict[str, Worker] = defaultdict(Worker)
        self._flows: list[str] = []
        self._services_at: defaultdict[str, list[str]] = defaultdict(list)
        """The services whose tables lie in a database, by its alias: several services may share one."""
        for service in self.services:
            self._services_at[ServiceTables(service).alias].append(service)

    # Processes

    @property
    def depth(self) -> int:
        """How many processes wait for an external system while something else happens."""
        return len(self._processes)

    @contextmanager
    def process(self, fault: Fault | None = None) -> Iterator[None]:
        """What happens inside is done by one process, which ``fault`` may happen to."""
        self._processes.append(Process(fault))
        try:
            yield
        finally:
            self._processes.pop()

    @contextmanager
    def no_process(self) -> Iterator[None]:
        """What happens inside is done by the simulation itself: no fault reaches it."""
        self._processes.append(None)
        try:
            yield
        finally:
            self._processes.pop()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Faults reach the databases and the external calls inside, and batches are judged."""
        with self.databases_watched(), self.calls_watched(), self.batches_watched():
            yield

    @contextmanager
    def databases_watched(self) -> Iterator[None]:
        """Faults reach the services' databases inside."""
        with ExitStack() as stack:
            for alias in self._services_at:
                connection = connections[alias]
                vars(connection)["commit"] = partial(self._commit, alias, connection.commit)
                stack.callback(vars(connection).pop, "commit")
                stack.enter_context(connection.execute_wrapper(self._statement))
            yield

    @contextmanager
    def calls_watched(self) -> Iterator[None]:
        """Faults reach the external calls of reactions inside."""
        with ExitStack() as stack:
            for reaction in reactions():
                if reaction.ask is not None and reaction.service in self.services:
                    stack.enter_context(override(reaction.name, ask=self._calling(reaction.name, reaction.ask)))
            yield

    def let_happen(self, moment: str) -> None:
        """Let happen, once, what was to happen at this moment."""
        if self.meanwhile[moment]:
            self.meanwhile[moment].popleft()()

    def _calling(self, reaction: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            faults = self.call_faults[reaction]
            fault = faults.popleft() if faults and self._processes and self._processes[-1] else None
            if fault == "dies before":
                raise Crash
            if fault == "is down":
                raise Outage("the external system can't be reached")
            if fault == "fails":
                raise Transient("the external system failed")
            answer = ask(*arguments)
            self.let_happen(reaction)
            if fault == "dies after":
                raise Crash
            if fault == "loses the answer":
                raise Transient("the external system did not answer in time")
            return answer

        return call

    def _statement(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        process = self._processes[-1] if self._processes else None
        if process is not None:
            alias = context["connection"].alias
            if sql.startswith("BEGIN"):
                for service in self._services_at[alias]:
                    self.let_happen(service)
            self._reach(process, alias)
        return execute(sql, params, many, context)

    def _commit(self, alias: str, commit: Callable[[], None]) -> None:
        process = self._processes[-1] if self._processes else None
        if process is not None:
            process.commits += 1
            try:
                self._reach(process, alias)
                if process.meets("dies", "before commit", process.commits):
                    raise Crash
            except Crash:
                connections[alias].rollback()
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
            raise locked()
        fault = process.fault
        gone = process.meets("fails", "statement") and fault is not None and process.statements >= fault.number
        if gone or not self.databases_down.isdisjoint(self._services_at[alias]):
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
        """Whether an event or a report waits, without all that the relay does around the question."""
        tables = ServiceTables(service)
        connection: Any = connections[tables.alias]
        if connection.connection is None or connection.vendor != "sqlite":
            return True
        outbox, reports = tables.outbox.model._meta.db_table, tables.reports.model._meta.db_table
        query = f'SELECT 1 FROM "{outbox}" WHERE published_at IS NULL UNION ALL SELECT 1 FROM "{reports}" LIMIT 1'  # noqa: S608
        return connection.connection.execute(query).fetchone() is not None

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

    def put(self, service: str, message: Stored) -> None:
        """Put a copy of a message into a service's inbox."""
        again = Outgoing(message.body, "", topology.queue_name(service), message.content_type, message.headers)
        Choreography.publish(self, [again])

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
        while len(worker.received) < position + together and (message := self.take(service, name)):
            worker.received.append(message)
        first = max(min(position, len(worker.received) - together), 0)
        for message in worker.received[first : first + together]:
            worker.batcher.add(read_delivery(message, message.queue))
        del worker.received[first : first + together]
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

        def judge(reaction: Any, deliveries: int, error: Exception) -> None:
            if not _is_expected(error):
                about = f"{reaction.name}, {deliveries} together: {type(error).__name__}: {error}"
                raise Violated(Violation("no_batch_has_a_bug", None, about)) from error

        with (
            patch.object(handler, "failed_together", judge),
            patch.object(unit_of_work, "failed_together", judge),
        ):
            yield

    def _refuse_bugs(self, service: str, outcome: RetryLater | Parked, message: Stored) -> None:
        error = outcome.error
        kind = classify(error)
        about = f"{service}: {self.about(message)}: {type(error).__name__}: {error}"
        given_up = message.queue == topology.dead_queue(service).name
        if not (_is_expected(error) or (given_up and issubclass(kind, Unusable))):
            raise Violated(Violation("no_reaction_has_a_bug", None, about))
        if isinstance(outcome, Parked) and issubclass(kind, Outage):
            raise Violated(Violation("an_outage_parks_nothing", None, about))

    def lose_all_connections(self) -> None:
        """The broker takes all workers for dead, those that are busy now included. They go on, and don't know."""
        for name, worker in self._workers.items():
            worker.lose_connection()
            self.lose_connections(name)

    # Timers

    def tick_of(self, name: str, fault: Fault | None) -> None:
        """One tick of a timer. What it raises is lost, as in a worker; a bug is not."""
        if name.endswith(PURGE):
            with self.no_process():
                self.before_purge()
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

    def before_purge(self) -> None:
        """Called before old rows are deleted, for those who need to know them."""

    # Hooks, and how things stand

    def begin(self, name: str) -> None:
        """Do what ``actions.Begin`` names."""
        raise NotImplementedError

    def check(self) -> None:
        """What must always hold does. Called after every action.

        Raises:
            Violated: it does not.
        """

    def end(self) -> None:
        """No more faults: what is parked is sent again, and everything settles.

        Raises:
            Violated: it does not settle, or a flow ends badly.
        """
        self.tell("From now on nothing fails.")
        self.mend()
        self.run_until_settled()
        if self.parked():
            for service, dead_letter in self.parked():
                self.tell(f"someone sends {service}'s dead letter {dead_letter.pk} again")
                actions.send_again(dead_letter, self)
            self.run_until_settled()
        for service, dead_letter in self.parked():
            raise Violated(
                Violation("a_dead_letter_sent_again_takes_effect", dead_letter.subject, f"{service}: {dead_letter}")
            )
        left = [f"{queue.name} {queue.ready}" for queue in self.broker.queues() if queue.ready or queue.unacked]
        if left:
            raise Violated(Violation("the_broker_is_empty_at_the_end", None, ", ".join(left)))

    def mend(self) -> None:
        """End every fault, and let workers begin anew."""
        self.ladder_faults.clear()
        self.databases_down.clear()
        self.call_faults.clear()
        self.meanwhile.clear()
        self.lose_all_connections()

    def run_until_settled(self) -> None:
        """Let everything settle: nothing is to be handled, due on a ladder, or done by two ticks of every timer.

        Raises:
            Violated: it does not within ``REST_WITHIN`` seconds of its time.
        """
        begin, quiet = self.time.now(), 0
        while True:
            if self.drain():
                quiet = 0
            elif (due := self.broker.next_due()) is not None:
                self.time.advance(max(due - self.time.now().timestamp(), 0) + 0.001)
            elif quiet == 2:
                return
            else:
                quiet += 1
                self.time.advance(BEAT)
                self.beat()
            if (seconds := (self.time.now() - begin).total_seconds()) > REST_WITHIN:
                raise Violated(Violation("every_flow_ends", None, f"not settled after {seconds:.0f} s"))

    def beat(self) -> None:
        """Tick every timer but those that delete old rows."""
        for name in self.timer_names():
            if not name.endswith(PURGE):
                self.tick(name)

    def timer_names(self) -> list[str]:
        """Every timer of these services, sorted."""
        return timer_names(self.services)

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
        """The text with long subjects replaced by short names: ``flow 0``, ``flow 1``."""
        for number, subject in enumerate(self._flows):
            text = text.replace(subject, f"flow {number}")
        return text

    def about(self, message: Stored) -> str:
        """``table 7's dish_cooked``"""
        event = json.loads(message.body)
        subject = str(event["subject"])
        if len(subject) > _LONG and subject not in self._flows:
            self._flows.append(subject)
        return f"{subject}'s {event['type'].partition('.')[2].rpartition('.')[0]}"

    def _about_all(self, messages: Sequence[Stored]) -> str:
        return ", ".join(map(self.about, messages))


def timer_names(services: Iterable[str]) -> list[str]:
    """Every timer of these services, sorted."""
    chosen = set(services)
    return sorted(timer.name for timer in timers() if timer.service in chosen)


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
