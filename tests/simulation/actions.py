"""What may happen: one class for each kind. An action that does not apply where it stands does nothing.

Their ``repr`` is Python, so that a history can be kept in a test.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from django.db import OperationalError

from choreography.core import clock
from choreography.core.errors import ChoreographyError, PublishFailed, Transient
from choreography.dead_letters import actions
from orders.services import SubmittedTwice, request_cancellation
from tests.shop_in_a_box import Crash
from tests.simulation.outside import CALLS, CARRIER, GATEWAY, Mishap
from tests.simulation.shop import Fault, SimulatedShop, order_of


@dataclass(frozen=True)
class Action:
    """One thing that happens."""

    number: int = field(default=0, kw_only=True, repr=False, compare=False)
    """Its place in the history it was made for; it keeps it when others are left out."""

    def do(self, shop: SimulatedShop) -> None:
        """Let it happen."""
        raise NotImplementedError

    def numbers(self) -> Iterator[int]:
        """Its own number, and those of what happens inside it."""
        yield self.number


def happen(action: Action, shop: SimulatedShop) -> None:
    """Let an action happen, and see that nothing is wrong then.

    Raises:
        Violated: something is.
    """
    before, shop.number = shop.number, action.number
    try:
        action.do(shop)
        shop.check()
    finally:
        shop.number = before


# Somebody does something


@dataclass(frozen=True)
class Place(Action):
    """A customer places an order, and sends the same form again if asked to."""

    token: str = "tok_approved"
    street: str = "Main Street 1"
    fault: Fault | None = None
    again: bool = False

    def do(self, shop: SimulatedShop) -> None:
        form = clock.new_id()
        self._send(shop, form, self.fault)
        if self.again:
            self._send(shop, form, None)

    def _send(self, shop: SimulatedShop, form: UUID, fault: Fault | None) -> None:
        what = f"an order is placed: {self.token}, {self.street}"
        try:
            with shop.process(fault):
                shop.place(self.token, self.street, submission=form)
        except (Crash, OperationalError, SubmittedTwice) as error:
            what += f" ({type(error).__name__})"
        shop.find_orders()
        shop.tell(what)


@dataclass(frozen=True)
class Cancel(Action):
    """Somebody asks for an order to be cancelled: one by its number, or whatever is being handled."""

    order: int | None
    fault: Fault | None = None

    def do(self, shop: SimulatedShop) -> None:
        if self.order is None and shop.in_hand:
            order_ids = [order_of(message) for message in shop.in_hand[-1][1]]
        elif self.order is not None:
            order_ids = shop.order_ids[self.order : self.order + 1]
        else:
            return
        for order_id in order_ids:
            self._ask(shop, order_id)

    def _ask(self, shop: SimulatedShop, order_id: UUID) -> None:
        what = f"{order_id} is to be cancelled"
        try:
            with shop.process(self.fault):
                request_cancellation(order_id)
        except (ChoreographyError, Crash, OperationalError) as error:
            what += f" ({type(error).__name__})"
        shop.tell(what)


@dataclass(frozen=True)
class SendAgain(Action):
    """Somebody sends one of a service's dead letters again."""

    service: str
    position: int
    fault: Fault | None = None

    def do(self, shop: SimulatedShop) -> None:
        parked = [dead_letter for service, dead_letter in shop.parked() if service == self.service]
        if self.position >= len(parked):
            return
        dead_letter = parked[self.position]
        what = f"someone sends {self.service}'s letter {dead_letter.pk} again"
        try:
            with shop.process(self.fault):
                actions.send_again(dead_letter, shop)
        # It may have done its work while the button was being pressed.
        except (actions.NotParked, Transient, Crash, OperationalError) as error:
            what += f" ({type(error).__name__})"
        shop.tell(what)


# A service does something


@dataclass(frozen=True)
class Relay(Action):
    """A service's relay takes a batch from its outbox to the broker."""

    service: str
    fault: Fault | None = None

    def do(self, shop: SimulatedShop) -> None:
        try:
            with shop.process(self.fault):
                published = shop.relay(self.service)
        except (Crash, OperationalError, PublishFailed) as error:
            shop.tell(f"{self.service}'s relay: {type(error).__name__} ({self.fault or 'the database is down'})")
        else:
            if published:
                shop.tell(f"{self.service}'s relay publishes {published}")


@dataclass(frozen=True)
class Handle(Action):
    """Messages arrive with a service's worker: the first there is, or later ones before it. It handles what it may."""

    service: str
    position: int = 0
    fault: Fault | None = None
    together: int = 1

    def do(self, shop: SimulatedShop) -> None:
        shop.work(self.service, self.position, self.together, self.fault)


@dataclass(frozen=True)
class Tick(Action):
    """A timer ticks, by itself or twice at once."""

    timer: str
    fault: Fault | None = None

    def do(self, shop: SimulatedShop) -> None:
        shop.tick_of(self.timer, self.fault)


# Something happens to them


@dataclass(frozen=True)
class Repeat(Action):
    """The broker delivers once more what was handled some deliveries ago, or what is being handled."""

    back: int | None

    def do(self, shop: SimulatedShop) -> None:
        if self.back is None and shop.in_hand:
            service, messages = shop.in_hand[-1]
        elif self.back is not None and self.back < len(shop.steps):
            step = shop.steps[-1 - self.back]
            service, messages = step.service, [step.message]
        else:
            return
        for message in messages:
            shop.tell(f"{service} is delivered again: {shop.about(message)}")
            shop.put(service, message)


@dataclass(frozen=True)
class ShakeLadder(Action):
    """The next delivery that is to wait on a ladder meets a fault there."""

    fault: Fault

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"the next worker that puts something on a ladder {self.fault}")
        shop.ladder_faults.append(self.fault)


@dataclass(frozen=True)
class LoseConnections(Action):
    """The broker takes all workers for dead and delivers again what they hold. They go on all the same."""

    def do(self, shop: SimulatedShop) -> None:
        shop.tell("all connections to the broker are lost")
        shop.lose_all_connections()


@dataclass(frozen=True)
class Pass(Action):
    """Time passes."""

    seconds: float

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"{self.seconds} s pass")
        shop.time.advance(self.seconds)


@dataclass(frozen=True)
class GoDown(Action):
    """A service's database, the payment gateway or the carrier can't be reached any more."""

    what: str

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"{self.what} goes down")
        _down(shop, self.what).add(self.what)


@dataclass(frozen=True)
class ComeBack(Action):
    """It can be reached again."""

    what: str

    def do(self, shop: SimulatedShop) -> None:
        if self.what in _down(shop, self.what):
            shop.tell(f"{self.what} comes back")
            _down(shop, self.what).discard(self.what)


def _down(shop: SimulatedShop, what: str) -> set[str]:
    return shop.outside.down if what in (GATEWAY, CARRIER) else shop.databases_down


@dataclass(frozen=True)
class Mislead(Action):
    """The next call of this name goes wrong."""

    call: str
    mishap: Mishap

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"the next {self.call}: {self.mishap}")
        shop.outside.mishaps[self.call].append(self.mishap)


@dataclass(frozen=True)
class Meanwhile(Action):
    """Other things happen during the next call of this name, before its answer arrives; or, where it is a service's
    name, before that service's next transaction begins."""

    moment: str
    actions: tuple[Action, ...]

    def do(self, shop: SimulatedShop) -> None:
        shop.outside.meanwhile[self.moment].append(lambda: self._let_happen(shop))

    def _let_happen(self, shop: SimulatedShop) -> None:
        before, shop.number = shop.number, self.number
        what = f"{self.moment} is answered" if self.moment in CALLS else f"{self.moment} begins a transaction"
        shop.tell(f"meanwhile, before {what}:")
        shop.level += 1
        try:
            for action in self.actions:
                happen(action, shop)
        finally:
            shop.level -= 1
            shop.number = before

    def numbers(self) -> Iterator[int]:
        yield self.number
        for action in self.actions:
            yield from action.numbers()


#: What can go down and come back, besides the databases of the services, which go by the services' names.
HOSTS = (GATEWAY, CARRIER)
