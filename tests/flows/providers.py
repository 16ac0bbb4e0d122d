"""The sandbox's provider and carrier, in whose calls a test can meddle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from payments.gateway import Authorized, Captured, Declined, GatewayDown, Movement, Outcome, Refunded, Refused, Voided
from payments.sandbox import SandboxGateway
from shipping.carrier import Address, Booked, CarrierDown, CarrierError, Tracking, Undeliverable
from shipping.sandbox import SandboxCarrier


class Gateway(SandboxGateway):
    """``down``: it can't be reached. ``meanwhile``: what happens, once, between a booking and its answer."""

    down: ClassVar[bool]
    meanwhile: ClassVar[dict[str, Callable[[], None]]]

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        with self._meddling("authorize"):
            return super().authorize(key=key, token=token, amount=amount, currency=currency)

    def capture(self, *, key: str, reference: str, amount: int) -> Captured | Refused:
        with self._meddling("capture"):
            return super().capture(key=key, reference=reference, amount=amount)

    def void(self, *, key: str, reference: str) -> Voided | Refused:
        with self._meddling("void"):
            return super().void(key=key, reference=reference)

    def refund(self, *, key: str, reference: str, amount: int) -> Refunded | Refused:
        with self._meddling("refund"):
            return super().refund(key=key, reference=reference, amount=amount)

    def find(self, key: str) -> Outcome | None:
        self._reach()
        return super().find(key)

    def movements(self, first: str, last: str) -> list[Movement]:
        self._reach()
        return super().movements(first, last)

    def _reach(self) -> None:
        if self.down:
            raise GatewayDown("the gateway can't be reached")

    @contextmanager
    def _meddling(self, call: str) -> Iterator[None]:
        self._reach()
        try:
            yield
        finally:  # also where the answer is lost
            self.meanwhile.pop(call, _nothing)()


class Carrier(SandboxCarrier):
    """``down``: it can't be reached. ``meanwhile``: what happens, once, between a booking and its answer.

    ``loses_answers``: how many bookings are made without the answer arriving.
    """

    down: ClassVar[bool]
    loses_answers: ClassVar[int]
    meanwhile: ClassVar[dict[str, Callable[[], None]]]

    def book(self, *, key: str, address: Address) -> Booked | Undeliverable:
        self._reach()
        answer = super().book(key=key, address=address)
        self.meanwhile.pop("book", _nothing)()
        if self.loses_answers:
            type(self).loses_answers -= 1
            raise CarrierError("the carrier did not answer")
        return answer

    def cancel(self, *, parcel: str) -> bool:
        self._reach()
        return super().cancel(parcel=parcel)

    def track(self, parcel: str) -> Tracking:
        self._reach()
        return super().track(parcel)

    def find(self, key: str) -> Booked | Undeliverable | None:
        self._reach()
        return super().find(key)

    def _reach(self) -> None:
        if self.down:
            raise CarrierDown("the carrier can't be reached")


def _nothing() -> None:
    pass
