"""Schedules made up from a seed: the same on every machine."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from choreography.events.registry import reactions
from choreography.simulation.actions import (
    Action,
    Begin,
    ComeBack,
    DisturbCall,
    GoDown,
    Handle,
    LoseConnections,
    Meanwhile,
    Pass,
    Relay,
    Repeat,
    Schedule,
    SendAgain,
    ShakeLadder,
    Tick,
    numbered,
)
from choreography.simulation.faults import Fault
from choreography.simulation.system import CALL_FAULTS, PURGE

#: The position of the newest message, however many there are.
LAST: Final = 99

Maker = tuple[int, Callable[[], Action]]
"""A weight, and what makes an action up."""


class Author:
    """Makes schedules up. Each has its own mood: some things happen often in it, and others never."""

    #: Flows that begin, at most, and in a rush.
    most_flows: int = 5
    most_in_a_rush: int = 8
    #: Seconds that may pass at once: within a retry, over the ladder, past ``max_wait``.
    pauses: tuple[float, ...] = (*[0.5] * 3, *[3.0] * 4, *[20.0] * 2, 200.0, 700.0, 4000.0)

    def __init__(self, random: Random, services: Sequence[str], timers: Sequence[str], begins: Sequence[str]) -> None:
        self.random = random
        self.services = sorted(services)
        self.timers = list(timers)
        self.begins = list(begins)
        self.calls = [reaction.name for service in self.services for reaction in reactions(service) if reaction.ask]
        self.is_rush = random.random() < 0.3
        self.flows = random.randint(2, self.most_in_a_rush) if self.is_rush else random.randint(1, self.most_flows)
        self._sizes = random.choice([[1], [1, 1, 2, 3], [1, 2, 4, self.most_in_a_rush]])
        self._pace = [random.choice([1.0, 1.0, 0.15]) for _ in self.services]
        self._newest_first = random.choice([0.05, 0.05, 0.5])
        self._faults = random.choice([0.0, 0.1, 0.2, 0.4])
        makers = self.makers()
        self._inside = [(12, self.relay), (18, self.handle), *makers]
        self._makers = [*self._inside, (self.some(5), self.meanwhile)]

    def write(self) -> Schedule:
        """One schedule, numbered from 0."""
        actions = [self._make(self._makers) for _ in range(self.flows * self.random.randint(6, 28))]
        for _ in range(self.flows - 1):
            actions.insert(0 if self.is_rush else self.random.randrange(len(actions)), self.begin())
        return numbered([self.begin(), *self.passage(), *actions])

    def makers(self) -> list[Maker]:
        """What may happen besides relaying and handling, each as likely as its weight."""
        return [
            (self.some(3), self.repeat),
            (self.some(3), self.pass_time),
            (self.some(3), self.tick),
            (self.some(2) if self.calls else 0, self.disturb_call),
            (self.some(1), self.go_down),
            (self.some(2), self.come_back),
            (self.some(1), LoseConnections),
            (self.some(1), self.shake_ladder),
            (self.some(1), self.send_again),
        ]

    def passage(self) -> Sequence[Action]:
        """Actions that lead to where chance alone rarely leads."""
        return ()

    def some(self, weight: int) -> int:
        return weight * self.random.choice([0, 1, 1, 2])

    def _make(self, makers: list[Maker]) -> Action:
        [(_, make)] = self.random.choices(makers, [weight for weight, _ in makers])
        return make()

    # Each kind of action

    def begin(self) -> Action:
        return Begin(self.random.choice(self.begins), self.fault("statement", "before commit", "commit"))

    def send_again(self) -> Action:
        fault = self.fault("statement", "before commit", "commit", "publish")
        return SendAgain(self.service(), self.random.randrange(2), fault)

    def relay(self) -> Action:
        return Relay(self.service(), self.fault("statement", "publish", "publish"))

    def handle(self) -> Action:
        newest = self.random.random() < self._newest_first
        position = LAST if newest else self.random.choice([0, 0, 0, 0, 1, 1, 2, 3])
        fault = self.fault("statement", "before commit", "commit", "acknowledge")
        return Handle(self.service(), position, fault, self.some_together())

    def some_together(self) -> int:
        return self.random.choice(self._sizes)

    def tick(self) -> Action:
        return Tick(self.random.choice(self.ticking()), self.fault("statement", "before commit", "commit"))

    def ticking(self) -> list[str]:
        """The timers to choose from."""
        return [timer for timer in self.timers if not timer.endswith(PURGE)]

    def repeat(self) -> Action:
        return Repeat(self.random.choice([0, 0, 1, 2, 3, 5, 8, 13, 21]))

    def pass_time(self) -> Action:
        return Pass(self.random.choice(self.pauses))

    def go_down(self) -> Action:
        return GoDown(self.random.choice(self.services))

    def come_back(self) -> Action:
        return ComeBack(self.random.choice(self.services))

    def disturb_call(self) -> Action:
        return DisturbCall(self.random.choice(self.calls), self.random.choice(CALL_FAULTS))

    def meanwhile(self) -> Action:
        moment = self.random.choice([*self.services, *self.calls])
        return self.meanwhile_at(moment, moment.partition(".")[0])

    def meanwhile_at(self, moment: str, service: str) -> Action:
        """While ``service`` is busy: anything, or something about just what it does."""
        parts = self.interruptions()
        chosen = self.random.sample(parts, self.random.choice([1, 1, 2, 3][: len(parts) + 1]))
        return Meanwhile(moment, tuple(action for part in chosen for action in part(service)))

    def interruptions(self) -> list[Callable[[str], list[Action]]]:
        """What may happen while a service is busy."""
        return [self.anything, self.copy, self.colleague]

    def anything(self, service: str) -> list[Action]:
        return [self._make(self._inside) for _ in range(self.random.randint(1, 8))]

    def copy(self, service: str) -> list[Action]:
        """The message that is being handled comes again, to another worker."""
        again = self.random.choice([LoseConnections(), Repeat(None)])
        handled = [(position, self.fault("commit"), self.some_together()) for position in (0, 0, 1)]
        return [again, *(Handle(service, position, fault, together) for position, fault, together in handled)]

    def colleague(self, service: str) -> list[Action]:
        """Another worker of the service goes on with what else there is."""
        count = self.random.randint(1, 4)
        return [Handle(service, self.random.choice([0, 0, 1]), None, self.some_together()) for _ in range(count)]

    def shake_ladder(self) -> Action:
        return ShakeLadder(Fault(self.random.choice(["dies", "fails"]), "publish", self.random.randrange(2)))

    def service(self) -> str:
        [service] = self.random.choices(self.services, self._pace)
        return service

    def fault(self, *places: str) -> Fault | None:
        if self.random.random() >= self._faults:
            return None
        match self.random.choice(places):
            case "statement":
                return Fault(
                    self.random.choice(["dies", "fails", "is unlucky"]), "statement", self.random.randint(1, 16)
                )
            case "commit" | "before commit" as at:
                return Fault(self.random.choice(["dies", "fails"]), at, self.random.choice([1, 1, 2]))
            case "publish":
                return Fault(self.random.choice(["dies", "fails"]), "publish", self.random.randrange(3))
            case _:
                return Fault("dies", "acknowledge", self.random.choice([0, 0, 1, 2]))
