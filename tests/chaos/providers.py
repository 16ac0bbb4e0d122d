"""A payment provider and a carrier as they are on a bad day. What goes wrong with a call depends on its key alone.

Some calls are booked and their answer is lost, some fail at first, some take long. Beyond that whoever makes a file in
``FAULTS`` (see ``faults``) can have them all fail, or the system be down, for as long as the file is there.
"""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

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

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

#: The folder of the files that bring an external system down or make it fail; the seed that says which calls go wrong.
FOLDER, SEED = "CHAOS_FAULTS", "CHAOS_SEED"

#: While the first file is there, the process is killed that asks to authorize one order: the second file has its id.
LETHAL, VICTIM = "gateway-kills", "victim"


class BadDay:
    """What goes wrong with an external system's calls."""

    def __init__(
        self, system: str, slow: float, down: type[Exception], fails: type[Exception], silent: type[Exception]
    ) -> None:
        """``slow``: the part of the calls that take a second."""
        self._system, self._slow, self._down, self._fails, self._silent = system, slow, down, fails, silent
        self._folder = Path(os.environ[FOLDER])
        self._seed = os.environ[SEED]

    def look(self, what: Callable[[], Answer]) -> Answer:
        """A question that changes nothing."""
        self._be_down()
        return what()

    def call(self, key: str, what: Callable[[], Answer]) -> Answer:
        """A call that changes something, under an idempotency key."""
        self._be_down()
        chance = self._chance(key)
        # Long enough for a person to change their mind meanwhile, and for the shop to hear of it.
        time.sleep(1.0 if chance < self._slow else 0.02)
        if (self._folder / f"{self._system}-fails").exists():
            self._tell("failed", self._fails)
        answer = what()
        # Booked: whoever asks under the same key is told, and does not call again.
        if 0.2 < chance < 0.3:
            self._tell("answer_lost", self._silent)
        return answer

    def kill_for_one(self, order: str) -> None:
        """The first order that comes is the one."""
        if not (self._folder / LETHAL).exists():
            return
        try:
            with (self._folder / VICTIM).open("x") as file:
                file.write(order)
        except FileExistsError:
            if (self._folder / VICTIM).read_text() != order:
                return
        log.info("fault injected", fault=f"{self._system}_killed")
        os.kill(os.getpid(), signal.SIGKILL)

    def _be_down(self) -> None:
        if (self._folder / f"{self._system}-down").exists():
            self._tell("was_down", self._down)

    def _tell(self, what: str, error: type[Exception]) -> None:
        log.info("fault injected", fault=f"{self._system}_{what}")
        raise error(f"the {self._system} has a bad day")

    def _chance(self, key: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{self._seed}:{key}".encode()).digest()[:6]) / 2**48


class UnreliableGateway(SandboxGateway):
    """Times out after charging, fails, is down."""

    def __init__(self) -> None:
        super().__init__()
        self._day = BadDay("gateway", 0.05, GatewayDown, GatewayError, GatewayTimeout)

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        self._day.kill_for_one(key.partition(":")[0])
        call = super().authorize
        return self._day.call(key, lambda: call(key=key, token=token, amount=amount, currency=currency))

    def capture(self, *, key: str, reference: str, amount: int) -> Captured | Refused:
        call = super().capture
        return self._day.call(key, lambda: call(key=key, reference=reference, amount=amount))

    def void(self, *, key: str, reference: str) -> Voided | Refused:
        call = super().void
        return self._day.call(key, lambda: call(key=key, reference=reference))

    def refund(self, *, key: str, reference: str, amount: int) -> Refunded | Refused:
        call = super().refund
        return self._day.call(key, lambda: call(key=key, reference=reference, amount=amount))

    def find(self, key: str) -> Outcome | None:
        call = super().find
        return self._day.look(lambda: call(key))


class UnreliableCarrier(SandboxCarrier):
    """Does not answer after booking, fails, is down."""

    def __init__(self) -> None:
        super().__init__()
        self._day = BadDay("carrier", 0.25, CarrierDown, CarrierError, CarrierError)

    def book(self, *, key: str, address: Address) -> Booked | Undeliverable:
        call = super().book
        return self._day.call(key, lambda: call(key=key, address=address))

    def track(self, parcel: str) -> Tracking:
        call = super().track
        return self._day.look(lambda: call(parcel))

    def find(self, key: str) -> Booked | Undeliverable | None:
        call = super().find
        return self._day.look(lambda: call(key))
