"""A seed's history of the shop, written down before it begins: the same on every machine."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from choreography.simulation.actions import (
    Action,
    ComeBack,
    GoDown,
    Handle,
    LoseConnections,
    Meanwhile,
    Pass,
    Relay,
    Schedule,
    Tick,
)
from choreography.simulation.faults import Fault
from choreography.simulation.schedules import LAST, Author, Maker
from choreography.simulation.system import PURGE
from payments.sandbox import TOKENS
from shipping.sandbox import ADDRESSES
from tests.shop_in_a_box import SERVICES, TRACK_PARCELS
from tests.simulation.actions import EXTERNAL_SYSTEMS, Cancel, Mislead, Place, SystemBack, SystemDown
from tests.simulation.external_systems import CALLS, MISHAPS
from tests.simulation.shop import LIFETIME, shop_timers

#: Most go well of themselves, so that histories get far.
STREETS: Final = (*["Main Street 1"] * 6, *(f"{word.title()} Street 1" for word in (*ADDRESSES, "lost")))
TOKENS_GIVEN: Final = (*["tok_approved"] * 6, *TOKENS)
A_MONTH: Final = 31 * 24 * 3600.0

EXPIRE: Final = "payments.expire_authorizations"

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


def schedule_of(seed: int, services: Sequence[str] = SERVICES) -> Schedule:
    """What happens to these services under this seed, numbered from 0."""
    return ShopAuthor(Random(seed), services, shop_timers(services), []).write()


class ShopAuthor(Author):
    """Makes histories of the shop up."""

    #: Within a retry, over the ladder, past ``max_wait``, past every retention of rows but the inbox's, after which a
    #: repeated message would rightly be new.
    pauses = (*[0.5] * 3, *[3.0] * 4, *[20.0] * 2, 200.0, LIFETIME + 1, 700.0, 4000.0)

    def __init__(self, random: Random, services: Sequence[str], timers: Sequence[str], begins: Sequence[str]) -> None:
        self._months = 2
        super().__init__(random, services, timers, begins)

    def makers(self) -> list[Maker]:
        return [
            (self.some(2), self.cancel),
            (self.some(3), self.repeat),
            (self.some(3), self.pass_time),
            (self.some(3), self.tick),
            (self.some(2), self.mislead),
            (self.some(1), self.go_down),
            (self.some(2), self.come_back),
            (self.some(1), LoseConnections),
            (self.some(1), self.shake_ladder),
            (self.some(1), self.send_again),
        ]

    def passage(self) -> Sequence[Action]:
        """Now and then, a way to where chance alone rarely leads, or a part of it."""
        if self.random.random() >= 0.2:
            return ()
        passage = self.random.choice(PASSAGES)
        return passage[: self.random.choice([self.random.randint(1, len(passage)), len(passage)])]

    def begin(self) -> Action:
        token = self.random.choice(TOKENS_GIVEN)
        fault = self.fault("statement", "before commit", "commit")
        return Place(token, self.random.choice(STREETS), fault, again=self.random.random() < 0.2)

    def cancel(self) -> Action:
        return Cancel(self.random.randrange(self.flows), self.fault("statement", "before commit", "commit"))

    def ticking(self) -> list[str]:
        return [*self.timers, *[TRACK_PARCELS] * 4, *[EXPIRE] * 4]

    def pass_time(self) -> Action:
        if self._months and self.random.random() < 0.1:
            self._months -= 1
            return Pass(A_MONTH)
        return super().pass_time()

    def go_down(self) -> Action:
        what = self.random.choice([*self.services, *EXTERNAL_SYSTEMS])
        return SystemDown(what) if what in EXTERNAL_SYSTEMS else GoDown(what)

    def come_back(self) -> Action:
        what = self.random.choice([*self.services, *EXTERNAL_SYSTEMS])
        return SystemBack(what) if what in EXTERNAL_SYSTEMS else ComeBack(what)

    def mislead(self) -> Action:
        return Mislead(self.random.choice(CALLS), self.random.choice(MISHAPS))

    def meanwhile(self) -> Action:
        moment = self.random.choice([*CALLS, *self.services, "carrier.track", "gateway.void"])
        service = {"gateway": "payments", "carrier": "shipping"}.get(moment.partition(".")[0], moment)
        return self.meanwhile_at(moment, service)

    def interruptions(self) -> list[Callable[[str], list[Action]]]:
        return [*super().interruptions(), self.a_cancellation, self.an_expiry]

    def a_cancellation(self, service: str) -> list[Action]:
        """The order that is being handled is cancelled, all the way or to some point."""
        way: list[Action] = [Cancel(None), Relay("orders")]
        for hearing in ("shipping", "orders", "payments"):
            way += [*(Handle(hearing) for _ in range(self.random.randint(1, 4))), Relay(hearing)]
        return way[: self.random.choice([self.random.randint(2, len(way)), len(way)])]

    def an_expiry(self, service: str) -> list[Action]:
        """What is about to be used grows too old, or is looked after by two at once."""
        timers = [Tick(timer, self.fault("commit")) for timer in self.timers if not timer.endswith(PURGE)]
        return [Pass(self.random.choice([3.0, LIFETIME + 1])), *timers]
