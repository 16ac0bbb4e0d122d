"""A seed's history, written down before it begins: the same on every machine, and it can be thinned out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from choreography.core.conf import conf
from payments.sandbox import TOKENS
from shipping.sandbox import ADDRESSES
from tests.shop_in_a_box import TRACK_PARCELS
from tests.simulation.actions import (
    HOSTS,
    Action,
    Cancel,
    ComeBack,
    GoDown,
    Handle,
    LoseConnections,
    Meanwhile,
    Mislead,
    Pass,
    Place,
    Relay,
    Repeat,
    SendAgain,
    ShakeLadder,
    Tick,
)
from tests.simulation.outside import CALLS, MISHAPS
from tests.simulation.shop import LIFETIME, PURGE, Fault, timer_names

MOST_ORDERS: Final = 5
#: So many of a rush come at once.
MOST_IN_A_RUSH: Final = 8
#: Most go well of themselves, so that histories get far.
STREETS: Final = (*["Main Street 1"] * 6, *(f"{word.title()} Street 1" for word in (*ADDRESSES, "lost")))
TOKENS_GIVEN: Final = (*["tok_approved"] * 6, *TOKENS)

#: Seconds that may pass at once: within a retry, over the ladder, past ``max_wait``, past every retention of rows
#: but the inbox's, after which a repeated message would rightly be new.
PAUSES: Final = (*[0.5] * 3, *[3.0] * 4, *[20.0] * 2, 200.0, LIFETIME + 1, 700.0, 4000.0)
A_MONTH: Final = 31 * 24 * 3600.0

EXPIRE: Final = "payments.expire_authorizations"
#: The position of the newest message, however many there are.
LAST: Final = 99

Schedule = tuple[Action, ...]

_DISPATCHED: Final = (
    *(Relay("orders"), Handle("shipping", LAST), Handle("payments", LAST), Relay("payments")),
    *(Handle("shipping", LAST), Relay("shipping")),
)
PASSAGES: Final[tuple[Schedule, ...]] = (
    # A parcel is lost, and payments hears that the order is cancelled before it hears that it was sent.
    (
        *(Place("tok_approved", "Lost Street 1"), *_DISPATCHED),
        *(Pass(3.0), Tick(TRACK_PARCELS), Relay("shipping")),
        *(*[Handle("orders")] * 6, Relay("orders"), Handle("payments", LAST), Handle("payments", LAST)),
    ),
    # The provider lets go of a hold that has expired, payments can't enter it, and then is to capture it.
    (
        *(Place(), *_DISPATCHED, Pass(LIFETIME + 1)),
        *(Tick(EXPIRE, Fault("fails", "before commit", 1)), Handle("payments", LAST)),
    ),
    # A hold expires while payments lets go of it because the order is cancelled.
    (
        *(Place(), Relay("orders"), Handle("payments", LAST), Cancel(0), Cancel(1), Relay("orders")),
        *(*[Handle("shipping", LAST)] * 3, Relay("shipping"), *[Handle("orders", LAST)] * 2, Relay("orders")),
        *(Pass(LIFETIME + 1), Meanwhile("gateway.void", (Tick(EXPIRE),)), Handle("payments", LAST)),
    ),
)
"""Ways to where chance alone rarely leads."""


def schedule_of(seed: int) -> Schedule:
    """What happens under this seed, numbered from 0."""
    return numbered(_Author(Random(seed)).write())


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


class _Author:
    """Makes histories up. Each has its own mood: some things happen often in it, and others never."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._services = sorted(conf().services)
        self._timers = timer_names()
        self._ticking = [*self._timers, *[TRACK_PARCELS] * 4, *[EXPIRE] * 4]
        self._is_rush = random.random() < 0.3
        self._orders = random.randint(2, MOST_IN_A_RUSH) if self._is_rush else random.randint(1, MOST_ORDERS)
        self._together = random.choice([[1], [1, 1, 2, 3], [1, 2, 4, MOST_IN_A_RUSH]])
        self._months = 2
        self._pace = [random.choice([1.0, 1.0, 0.15]) for _ in self._services]
        self._newest_first = random.choice([0.05, 0.05, 0.5])
        self._faults = random.choice([0.0, 0.1, 0.2, 0.4])
        makers: list[tuple[int, Callable[[], Action]]] = [
            (self._some(2), self._cancel),
            (self._some(3), self._repeat),
            (self._some(3), self._pass),
            (self._some(3), self._tick),
            (self._some(2), self._mislead),
            (self._some(1), self._go_down),
            (self._some(2), self._come_back),
            (self._some(1), LoseConnections),
            (self._some(1), self._shake_ladder),
            (self._some(1), self._send_again),
        ]
        self._inside = [(12, self._relay), (18, self._handle), *makers]
        self._makers = [*self._inside, (self._some(5), self._meanwhile)]

    def write(self) -> list[Action]:
        actions = [self._make(self._makers) for _ in range(self._orders * self._random.randint(6, 28))]
        for _ in range(self._orders - 1):
            actions.insert(0 if self._is_rush else self._random.randrange(len(actions)), self._place())
        return [self._place(), *self._a_passage(), *actions]

    def _a_passage(self) -> list[Action]:
        """Now and then, a way to where chance alone rarely leads, or a part of it."""
        if self._random.random() >= 0.2:
            return []
        passage = self._random.choice(PASSAGES)
        return list(passage[: self._random.choice([self._random.randint(1, len(passage)), len(passage)])])

    def _some(self, weight: int) -> int:
        return weight * self._random.choice([0, 1, 1, 2])

    def _make(self, makers: list[tuple[int, Callable[[], Action]]]) -> Action:
        [(_, make)] = self._random.choices(makers, [weight for weight, _ in makers])
        return make()

    # Each kind of action

    def _place(self) -> Action:
        token = self._random.choice(TOKENS_GIVEN)
        fault = self._fault("statement", "before commit", "commit")
        return Place(token, self._random.choice(STREETS), fault, again=self._random.random() < 0.2)

    def _cancel(self) -> Action:
        return Cancel(self._random.randrange(self._orders), self._fault("statement", "before commit", "commit"))

    def _send_again(self) -> Action:
        return SendAgain(
            self._service(), self._random.randrange(2), self._fault("statement", "before commit", "commit", "publish")
        )

    def _relay(self) -> Action:
        return Relay(self._service(), self._fault("statement", "publish", "publish"))

    def _handle(self) -> Action:
        newest = self._random.random() < self._newest_first
        position = LAST if newest else self._random.choice([0, 0, 0, 0, 1, 1, 2, 3])
        places = ("statement", "before commit", "commit", "acknowledge")
        return Handle(self._service(), position, self._fault(*places), self._some_together())

    def _some_together(self) -> int:
        return self._random.choice(self._together)

    def _tick(self) -> Action:
        return Tick(self._random.choice(self._ticking), self._fault("statement", "before commit", "commit"))

    def _repeat(self) -> Action:
        return Repeat(self._random.choice([0, 0, 1, 2, 3, 5, 8, 13, 21]))

    def _pass(self) -> Action:
        if self._months and self._random.random() < 0.1:
            self._months -= 1
            return Pass(A_MONTH)
        return Pass(self._random.choice(PAUSES))

    def _go_down(self) -> Action:
        return GoDown(self._random.choice([*self._services, *HOSTS]))

    def _come_back(self) -> Action:
        return ComeBack(self._random.choice([*self._services, *HOSTS]))

    def _mislead(self) -> Action:
        return Mislead(self._random.choice(CALLS), self._random.choice(MISHAPS))

    def _meanwhile(self) -> Action:
        moment = self._random.choice([*CALLS, *self._services, "carrier.track", "gateway.void"])
        busy = {"gateway": "payments", "carrier": "shipping"}.get(moment.partition(".")[0], moment)
        parts = [self._anything, self._a_copy, self._a_colleague, self._a_cancellation, self._an_expiry]
        chosen = self._random.sample(parts, self._random.choice([1, 1, 2, 3]))
        return Meanwhile(moment, tuple(action for part in chosen for action in part(busy)))

    # What may happen while a service is busy: anything, or something that hits home

    def _anything(self, service: str) -> list[Action]:
        return [self._make(self._inside) for _ in range(self._random.randint(1, 8))]

    def _a_copy(self, service: str) -> list[Action]:
        """The message that is being handled comes again, to another worker."""
        again = self._random.choice([LoseConnections(), Repeat(None)])
        handled = [(position, self._fault("commit"), self._some_together()) for position in (0, 0, 1)]
        return [again, *(Handle(service, position, fault, together) for position, fault, together in handled)]

    def _a_colleague(self, service: str) -> list[Action]:
        """Another worker of the service goes on with what else there is."""
        count = self._random.randint(1, 4)
        return [Handle(service, self._random.choice([0, 0, 1]), None, self._some_together()) for _ in range(count)]

    def _a_cancellation(self, service: str) -> list[Action]:
        """The order that is being handled is cancelled, all the way or to some point."""
        way: list[Action] = [Cancel(None), Relay("orders")]
        for hearing in ("shipping", "orders", "payments"):
            way += [*(Handle(hearing) for _ in range(self._random.randint(1, 4))), Relay(hearing)]
        return way[: self._random.choice([self._random.randint(2, len(way)), len(way)])]

    def _an_expiry(self, service: str) -> list[Action]:
        """What is about to be used grows too old, or is looked after by two at once."""
        timers = [Tick(timer, self._fault("commit")) for timer in self._timers if not timer.endswith(PURGE)]
        return [Pass(self._random.choice([3.0, LIFETIME + 1])), *timers]

    def _shake_ladder(self) -> Action:
        return ShakeLadder(Fault(self._random.choice(["dies", "fails"]), "publish", self._random.randrange(2)))

    def _service(self) -> str:
        [service] = self._random.choices(self._services, self._pace)
        return service

    def _fault(self, *places: str) -> Fault | None:
        if self._random.random() >= self._faults:
            return None
        match self._random.choice(places):
            case "statement":
                return Fault(
                    self._random.choice(["dies", "fails", "is unlucky"]), "statement", self._random.randint(1, 16)
                )
            case "commit" | "before commit" as at:
                return Fault(self._random.choice(["dies", "fails"]), at, self._random.choice([1, 1, 2]))
            case "publish":
                return Fault(self._random.choice(["dies", "fails"]), "publish", self._random.randrange(3))
            case _:
                return Fault("dies", "acknowledge", self._random.choice([0, 0, 1, 2]))
