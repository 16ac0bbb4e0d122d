"""What may happen: one class for each kind. An action that does not apply at its moment does nothing.

Their ``repr`` is Python, so that a schedule can be kept in a test.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import OperationalError

from choreography.core.errors import PublishFailed, Transient
from choreography.dead_letters import actions as dead_letters
from choreography.simulation.faults import Crash, Fault
from choreography.simulation.system import CallFault
from choreography.storage import claims


@dataclass(frozen=True)
class Action:
    """One thing that happens. ``system`` is a ``SimulatedSystem``, or a project's own subclass of it."""

    number: int = field(default=0, kw_only=True, repr=False, compare=False)
    """Its place in the schedule it was made for; it keeps it when others are left out."""

    def do(self, system: Any) -> None:
        """Let it happen."""
        raise NotImplementedError

    def numbers(self) -> Iterator[int]:
        """Its own number, and those of what happens inside it."""
        yield self.number


Schedule = tuple[Action, ...]


def happen(action: Action, system: Any) -> None:
    """Let an action happen, and check what must always hold.

    Raises:
        Violated: it does not hold.
    """
    before, system.number = system.number, action.number
    try:
        action.do(system)
        system.check()
    finally:
        system.number = before


# A person does something


@dataclass(frozen=True)
class Begin(Action):
    """One of the project's callables is called: a person places an order, say."""

    name: str
    fault: Fault | None = None

    def do(self, system: Any) -> None:
        what = self.name
        try:
            with system.process(self.fault):
                system.begin(self.name)
        except (Crash, OperationalError) as error:
            what += f" ({type(error).__name__})"
        system.tell(what)


@dataclass(frozen=True)
class SendAgain(Action):
    """A person sends one of a service's dead letters again."""

    service: str
    position: int
    fault: Fault | None = None

    def do(self, system: Any) -> None:
        parked = [dead_letter for service, dead_letter in system.parked() if service == self.service]
        if self.position >= len(parked):
            return
        dead_letter = parked[self.position]
        what = f"someone sends {self.service}'s dead letter {dead_letter.pk} again"
        try:
            with system.process(self.fault):
                dead_letters.send_again(dead_letter, system)
        # It may have taken effect while the button was being pressed.
        except (dead_letters.NotParked, Transient, Crash, OperationalError) as error:
            what += f" ({type(error).__name__})"
        system.tell(what)


# A service does something


@dataclass(frozen=True)
class Relay(Action):
    """A service's relay takes a batch from its outbox to the broker."""

    service: str
    fault: Fault | None = None

    def do(self, system: Any) -> None:
        try:
            with system.process(self.fault):
                published = system.relay(self.service)
        except (Crash, OperationalError, PublishFailed) as error:
            system.tell(f"{self.service}'s relay: {type(error).__name__} ({self.fault or 'the database is down'})")
        else:
            if published:
                system.tell(f"{self.service}'s relay publishes {published}")


@dataclass(frozen=True)
class Handle(Action):
    """Messages arrive with a service's worker: the first there is, or later ones before it. It handles what it may."""

    service: str
    position: int = 0
    fault: Fault | None = None
    together: int = 1

    def do(self, system: Any) -> None:
        system.work(self.service, self.position, self.together, self.fault)


@dataclass(frozen=True)
class Tick(Action):
    """A timer ticks."""

    timer: str
    fault: Fault | None = None

    def do(self, system: Any) -> None:
        system.tick_of(self.timer, self.fault)


# Something happens to them


@dataclass(frozen=True)
class Repeat(Action):
    """The broker delivers once more what was handled some deliveries ago, or (``None``) what is being handled."""

    back: int | None

    def do(self, system: Any) -> None:
        if self.back is None and system.in_hand:
            service, messages = system.in_hand[-1]
        elif self.back is not None and self.back < len(system.steps):
            step = system.steps[-1 - self.back]
            service, messages = step.service, [step.message]
        else:
            return
        for message in messages:
            system.tell(f"{service} is delivered again: {system.about(message)}")
            system.put(service, message)


@dataclass(frozen=True)
class ShakeLadder(Action):
    """The next delivery that is to wait on a ladder meets a fault there."""

    fault: Fault

    def do(self, system: Any) -> None:
        system.tell(f"the next worker that puts something on a ladder {self.fault}")
        system.ladder_faults.append(self.fault)


@dataclass(frozen=True)
class LoseConnections(Action):
    """The broker takes all workers for dead and delivers again what they hold. They go on all the same."""

    def do(self, system: Any) -> None:
        system.tell("all connections to the broker are lost")
        system.lose_all_connections()


@dataclass(frozen=True)
class Pass(Action):
    """Time passes. Processes that wait for an external system live on, and renew their claims."""

    seconds: float

    def do(self, system: Any) -> None:
        system.tell(f"{self.seconds} s pass")
        system.time.advance(self.seconds)
        with system.no_process():
            claims.renew_all()


@dataclass(frozen=True)
class GoDown(Action):
    """The database of a service can't be reached any more."""

    service: str

    def do(self, system: Any) -> None:
        system.tell(f"{self.service} goes down")
        system.databases_down.add(self.service)


@dataclass(frozen=True)
class ComeBack(Action):
    """It can be reached again."""

    service: str

    def do(self, system: Any) -> None:
        if self.service in system.databases_down:
            system.tell(f"{self.service} comes back")
            system.databases_down.discard(self.service)


@dataclass(frozen=True)
class DisturbCall(Action):
    """The next external call of a reaction meets a fault."""

    reaction: str
    fault: CallFault

    def do(self, system: Any) -> None:
        system.tell(f"the next call of {self.reaction}: {self.fault}")
        system.call_faults[self.reaction].append(self.fault)


@dataclass(frozen=True)
class Meanwhile(Action):
    """Other actions happen before a service's next transaction begins, or, where it is a reaction's name, during its
    next external call, before the answer arrives."""

    moment: str
    actions: Schedule

    def do(self, system: Any) -> None:
        system.meanwhile[self.moment].append(lambda: self._let_happen(system))

    def _let_happen(self, system: Any) -> None:
        before, system.number = system.number, self.number
        what = f"{self.moment} begins a transaction" if self.moment in system.services else f"{self.moment} is answered"
        system.tell(f"meanwhile, before {what}:")
        system.level += 1
        try:
            for action in self.actions:
                happen(action, system)
        finally:
            system.level -= 1
            system.number = before

    def numbers(self) -> Iterator[int]:
        yield self.number
        for action in self.actions:
            yield from action.numbers()


# Schedules


def numbered(actions: Sequence[Action]) -> Schedule:
    """The same actions with numbers from 0, what happens inside one counted after it."""
    count = -1

    def number(action: Action) -> Action:
        nonlocal count
        count += 1
        own = count
        if isinstance(action, Meanwhile):
            return replace(action, number=own, actions=tuple(number(inner) for inner in action.actions))
        return replace(action, number=own)

    return tuple(number(action) for action in actions)


def only(schedule: Schedule, keep: Collection[int]) -> Schedule:
    """What is left of a schedule when only these actions happen. What was inside one that does not, does not either."""
    left: list[Action] = []
    for action in schedule:
        if action.number in keep:
            if isinstance(action, Meanwhile):
                action = replace(action, actions=only(action.actions, keep))
            left.append(action)
    return tuple(left)


def numbers(schedule: Schedule) -> list[int]:
    """The numbers of all its actions, rising."""
    return [number for action in schedule for number in action.numbers()]
