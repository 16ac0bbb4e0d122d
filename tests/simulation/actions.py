"""What may happen in the shop, besides what may happen in any system: ``choreography.simulation.actions``."""

from dataclasses import dataclass
from uuid import UUID

from django.db import OperationalError

from choreography.core import clock
from choreography.core.errors import ChoreographyError
from choreography.simulation.actions import Action
from choreography.simulation.faults import Crash, Fault
from orders.services import SubmittedTwice, request_cancellation
from tests.simulation.external_systems import CARRIER, GATEWAY, Mishap
from tests.simulation.shop import SimulatedShop, order_of


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
    """A person asks for an order to be cancelled: one by its number, or whatever is being handled."""

    order: int | None
    fault: Fault | None = None

    def do(self, shop: SimulatedShop) -> None:
        if self.order is None and shop.in_hand:
            order_ids = [*filter(None, map(order_of, shop.in_hand[-1][1]))]
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
class SystemDown(Action):
    """The payment gateway or the carrier can't be reached any more."""

    system: str

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"{self.system} goes down")
        shop.systems.down.add(self.system)


@dataclass(frozen=True)
class SystemBack(Action):
    """It can be reached again."""

    system: str

    def do(self, shop: SimulatedShop) -> None:
        if self.system in shop.systems.down:
            shop.tell(f"{self.system} comes back")
            shop.systems.down.discard(self.system)


@dataclass(frozen=True)
class Mislead(Action):
    """The next call of this name goes wrong."""

    call: str
    mishap: Mishap

    def do(self, shop: SimulatedShop) -> None:
        shop.tell(f"the next {self.call}: {self.mishap}")
        shop.systems.mishaps[self.call].append(self.mishap)


EXTERNAL_SYSTEMS = (GATEWAY, CARRIER)
