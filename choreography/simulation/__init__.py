"""Simulation: histories of a project's services in which everything goes wrong, made up from seeds.

Reactions, outboxes, inboxes and databases are the real ones. The broker, the clock and the order of everything are
simulated: messages arrive late, twice and out of order, processes die between any two statements, databases and
external systems are down. At the end all faults stop, what is parked is sent again, everything settles, and the
project's invariants must hold. The same seed makes the same history on every machine.

In a test, on its empty test databases::

    def test_nobody_is_billed_twice(transactional_db):
        simulation = Simulation(begin={"place an order": place_order}, invariants=[nobody_is_billed_twice])
        failure = simulation.find_failure(seeds=range(100))
        assert failure is None, failure.story

A failure is shrunk to the few actions that it needs, and its ``story`` tells them in words.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management.color import no_style
from django.db import connections, transaction

from choreography.core.conf import conf
from choreography.simulation.actions import Schedule, happen
from choreography.simulation.faults import Crash, Fault, Violated, Violation
from choreography.simulation.schedules import Author
from choreography.simulation.shrinking import shrink
from choreography.simulation.system import SimulatedSystem, timer_names
from choreography.storage.tables import ServiceTables
from choreography.testing import FrozenClock, frozen_clock

__all__ = ["Crash", "Failure", "Fault", "Simulation", "Violated", "Violation", "empty_tables", "violation_of"]

Invariant = Callable[[], None]


@dataclass(frozen=True)
class Failure:
    """A history in which something that must hold does not."""

    seed: int
    violation: Violation
    schedule: Schedule
    """The actions it needs, as Python: ``simulation.run(schedule, seed)`` repeats it."""
    story: str
    """What happened, in words, one line for each step."""


class Simulation:
    """Histories of the services of this project.

    Args:
        begin: what people do, by the name it has in the story. Called without arguments, inside a process that may die;
            at least one. What it stores must be on the services' databases.
        invariants: what must hold at the end, each a function that raises ``AssertionError`` otherwise.
        always: what must hold after every action as well.
        services: which services take part; by default all.
    """

    def __init__(
        self,
        begin: Mapping[str, Callable[[], Any]],
        invariants: Iterable[Invariant],
        always: Iterable[Invariant] = (),
        services: Sequence[str] | None = None,
    ) -> None:
        self._begin = dict(begin)
        self._invariants = list(invariants)
        self._always = list(always)
        self._services = list(services or conf().services)

    def find_failure(self, seeds: Iterable[int]) -> Failure | None:
        """Run a history for each seed until one fails.

        Returns:
            That one, shrunk; ``None`` if none fails.

        Raises:
            ImproperlyConfigured: the databases are none of a test: their tables would be emptied.
        """
        for seed in seeds:
            schedule = self.schedule(seed)
            failure = self.run(schedule, seed)
            if failure is not None:
                return self._shrunk(failure)
        return None

    def schedule(self, seed: int) -> Schedule:
        """What happens under a seed."""
        timers = timer_names(self._services)
        return Author(Random(seed), self._services, timers, list(self._begin)).write()  # noqa: S311 (repeatable)

    def run(self, schedule: Schedule, seed: int) -> Failure | None:
        """Let one history happen. The seed decides ids and jitter.

        Raises:
            ImproperlyConfigured: as for ``find_failure``.
        """
        empty_tables(self._services)
        with frozen_clock(seed) as frozen:
            system = _System(frozen, self)
            try:
                violation = violation_of(system, schedule)
            finally:
                system.close()
        if violation is None:
            return None
        story = "\n".join([*system.told, "", f"Seed {seed} violates {violation}"])
        return Failure(seed, violation, schedule, story)

    def _shrunk(self, failure: Failure) -> Failure:
        def fails(schedule: Schedule) -> bool:
            again = self.run(schedule, failure.seed)
            return again is not None and again.violation.invariant == failure.violation.invariant

        shortest = shrink(failure.schedule, fails)
        return self.run(shortest, failure.seed) or failure


class _System(SimulatedSystem):
    def __init__(self, frozen: FrozenClock, simulation: Simulation) -> None:
        super().__init__(frozen, simulation._services)
        self._simulation = simulation

    def begin(self, name: str) -> None:
        self._simulation._begin[name]()

    def check(self) -> None:
        self._hold(self._simulation._always)

    def end(self) -> None:
        super().end()
        self._hold([*self._simulation._always, *self._simulation._invariants])

    def _hold(self, invariants: Iterable[Invariant]) -> None:
        with self.no_process():
            for invariant in invariants:
                try:
                    invariant()
                except AssertionError as error:
                    name = getattr(invariant, "__name__", repr(invariant))
                    raise Violated(Violation(name, None, str(error))) from error


def violation_of(system: SimulatedSystem, schedule: Schedule) -> Violation | None:
    """Let a schedule happen to a system, end all faults, and say what does not hold; ``None``: everything does."""
    try:
        with system.watched():
            for action in schedule:
                happen(action, system)
            system.end()
    except Violated as violated:
        return violated.violation
    except Exception as error:  # of the code under test, where no fault was its cause: a finding, with its seed
        return Violation("nothing_raises_unexpectedly", None, f"{type(error).__name__}: {error}")
    return None


def empty_tables(services: Iterable[str]) -> None:
    """Delete every row of these services, and begin their keys anew.

    Raises:
        ImproperlyConfigured: a database is not one of a test.
    """
    for service in services:
        alias = ServiceTables(service).alias
        connection = connections[alias]
        name = str(connection.settings_dict["NAME"])
        if not (name.startswith("test_") or "memory" in name or "/test_" in name):
            raise ImproperlyConfigured(
                f"A simulation empties the tables of {service}, and {alias} is not a test database but {name}. "
                "Run it in a test."
            )
        tables = [model._meta.db_table for model in apps.get_app_config(service).get_models()]
        statements = connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=True)
        with transaction.atomic(using=alias):
            connection.ops.execute_sql_flush(statements)
