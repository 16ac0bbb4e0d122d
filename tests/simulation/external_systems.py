"""The sandbox's provider and carrier, in whose every call something can go wrong."""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, TypeVar

from choreography.simulation import Crash
from payments.gateway import (
    Authorized,
    Captured,
    Declined,
    GatewayDown,
    GatewayError,
    GatewayTimeout,
    Outcome,
    Refunded,
    Refused,
    Voided,
)
from payments.sandbox import SandboxGateway
from shipping.carrier import Address, Booked, CarrierDown, CarrierError, Tracking, Undeliverable
from shipping.sandbox import SandboxCarrier

Answer = TypeVar("Answer")

GATEWAY, CARRIER = "the payment gateway", "the carrier"
CALLS: Final = (
    *("gateway.authorize", "gateway.capture", "gateway.void", "gateway.refund", "gateway.find"),
    *("carrier.book", "carrier.find", "carrier.track"),
)
"""Every call of an external system."""

Mishap = Literal["fails", "is down", "loses the answer", "dies before", "dies after"]
MISHAPS: Final[tuple[Mishap, ...]] = ("fails", "is down", "loses the answer", "dies before", "dies after")
"""What one call can meet. In the last two it is the process that asks that dies, before or after the booking."""


@dataclass
class ExternalSystems:
    """What is wrong with the external systems."""

    down: set[str] = field(default_factory=set)
    """``GATEWAY``, ``CARRIER``: it can't be reached."""
    mishaps: dict[str, deque[Mishap]] = field(default_factory=lambda: defaultdict(deque))
    """What the next calls of a name will meet."""
    meanwhile: defaultdict[str, deque[Callable[[], None]]] = field(default_factory=lambda: defaultdict(deque))
    """What happens during the next calls of a name, between the booking and its answer, or before a service's next
    transactions begin."""
    calls: int = 0
    """How many calls reached somebody."""

    def let_happen(self, moment: str) -> None:
        """Let happen, once, what was to happen at this moment."""
        if self.meanwhile[moment]:
            self.meanwhile[moment].popleft()()

    def mend(self) -> None:
        """From now on everything is answered."""
        self.down.clear()
        self.mishaps.clear()
        self.meanwhile.clear()


@dataclass(frozen=True)
class _System:
    name: str
    down: type[Exception]
    failed: type[Exception]
    silent: type[Exception]

    def ask(self, systems: ExternalSystems, call: str, question: Callable[[], Answer]) -> Answer:
        mishap = systems.mishaps[call].popleft() if systems.mishaps[call] else None
        if mishap == "dies before":
            raise Crash
        if mishap == "is down" or self.name in systems.down:
            raise self.down(f"{self.name} can't be reached")
        if mishap == "fails":
            raise self.failed(f"{self.name} failed")
        systems.calls += 1
        try:
            answer = question()
        finally:  # also where the sandbox itself loses the answer
            systems.let_happen(call)
        if mishap == "dies after":
            raise Crash
        if mishap == "loses the answer":
            raise self.silent(f"{self.name} did not answer in time")
        return answer


_gateway = _System(GATEWAY, GatewayDown, GatewayError, GatewayTimeout)
_carrier = _System(CARRIER, CarrierDown, CarrierError, CarrierError)


class Gateway(SandboxGateway):
    systems: ClassVar[ExternalSystems]

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        ask = super().authorize
        return _gateway.ask(
            self.systems,
            "gateway.authorize",
            lambda: ask(key=key, token=token, amount=amount, currency=currency),
        )

    def capture(self, *, key: str, reference: str, amount: int) -> Captured | Refused:
        ask = super().capture
        return _gateway.ask(self.systems, "gateway.capture", lambda: ask(key=key, reference=reference, amount=amount))

    def void(self, *, key: str, reference: str) -> Voided | Refused:
        ask = super().void
        return _gateway.ask(self.systems, "gateway.void", lambda: ask(key=key, reference=reference))

    def refund(self, *, key: str, reference: str, amount: int) -> Refunded | Refused:
        ask = super().refund
        return _gateway.ask(self.systems, "gateway.refund", lambda: ask(key=key, reference=reference, amount=amount))

    def find(self, key: str) -> Outcome | None:
        ask = super().find
        return _gateway.ask(self.systems, "gateway.find", lambda: ask(key))

    def forget_everything(self) -> None:
        with self._records.writing() as db:
            db.execute("DELETE FROM operations")
            db.execute("DELETE FROM calls")


class Carrier(SandboxCarrier):
    systems: ClassVar[ExternalSystems]

    def book(self, *, key: str, address: Address) -> Booked | Undeliverable:
        ask = super().book
        return _carrier.ask(self.systems, "carrier.book", lambda: ask(key=key, address=address))

    def track(self, parcel: str) -> Tracking:
        ask = super().track
        return _carrier.ask(self.systems, "carrier.track", lambda: ask(parcel))

    def find(self, key: str) -> Booked | Undeliverable | None:
        ask = super().find
        return _carrier.ask(self.systems, "carrier.find", lambda: ask(key))

    def forget_everything(self) -> None:
        with self._records.writing() as db:
            db.execute("DELETE FROM bookings")
