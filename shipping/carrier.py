"""The carrier as shipping sees it: what to ask for, the answers, and what goes wrong.

Another carrier is one new module with a class that has these methods, and one setting: ``CARRIER``,
the dotted path of that class, or of a function, which is called without arguments (keys and
addresses come from the settings).

A booking carries an idempotency key of the caller's choice: the same key gets the first answer
again and sends no second parcel. A ``parcel`` is the carrier's name for what it carries.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from choreography.core.errors import Outage, Transient
from choreography.events.external_systems import ExternalSystem


@dataclass(frozen=True)
class Address:
    """Where a parcel goes. Personal data: pass it on, don't log it."""

    name: str
    street: str
    city: str
    postal_code: str
    country: str
    """ISO 3166-1 alpha-2."""


@dataclass(frozen=True)
class Booked:
    """The parcel is on its way."""

    parcel: str


@dataclass(frozen=True)
class Undeliverable:
    """The carrier won't take it. ``reason`` is a code such as ``no_such_address``."""

    reason: str


class Tracking(StrEnum):
    """Where a parcel is. All but ``IN_TRANSIT`` are final."""

    IN_TRANSIT = "in_transit"
    DELIVERED = "delivered"
    LOST = "lost"
    CANCELLED = "cancelled"


class CarrierError(Transient):
    """The carrier failed, or did not answer: ``find(key)`` tells whether it booked."""


class CarrierDown(Outage):
    """The carrier can't be reached. Nothing was booked."""


class UnknownParcel(LookupError):
    """The carrier has no such parcel. A bug: no retry mends it."""


class Carrier(Protocol):
    """A carrier. Any call may raise CarrierError or CarrierDown."""

    def book(self, *, key: str, address: Address) -> Booked | Undeliverable:
        """Send a parcel to ``address``."""

    def cancel(self, *, parcel: str) -> bool:
        """Call the parcel back. True: it won't arrive (as after an earlier call); False: too late.

        Raises UnknownParcel.
        """

    def track(self, parcel: str) -> Tracking:
        """Where the parcel is now. Raises UnknownParcel."""

    def find(self, key: str) -> Booked | Undeliverable | None:
        """What became of the booking with this key; None: the carrier has none."""


#: The carrier that ``settings.CARRIER`` names.
carrier = ExternalSystem[Carrier]("carrier", "CARRIER", reads={"find", "track"}, probe=lambda it: it.find("probe"))
