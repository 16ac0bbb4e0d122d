"""The payment provider as payments sees it: what to ask for, the answers, and what goes wrong.

Another provider is one new module with a class that has these methods, and one setting:
``PAYMENT_GATEWAY``, the dotted path of that class, or of a function, which is called without
arguments (keys and addresses come from the settings).

Every call carries an idempotency key of the caller's choice. The same key with the same parameters
gets the first answer again and moves no money; with other parameters it is refused (``KeyReused``).
Amounts are integers in minor units of an ISO 4217 currency. A ``reference`` is the provider's name
for an authorization; whatever happens to that money later refers to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from choreography.core.errors import Outage, Transient
from choreography.events.external_systems import ExternalSystem


@dataclass(frozen=True)
class Authorized:
    """The amount is held on the customer's account."""

    reference: str
    amount: int
    currency: str


@dataclass(frozen=True)
class Declined:
    """The customer's bank says no; nothing is held. ``reason``: a code, e.g. ``expired_card``."""

    reason: str


@dataclass(frozen=True)
class Captured:
    """The amount has been taken from what was held."""

    reference: str
    amount: int


@dataclass(frozen=True)
class Voided:
    """The whole amount held, ``amount``, has been let go; none of it was taken."""

    reference: str
    amount: int


@dataclass(frozen=True)
class Refunded:
    """The amount has been given back out of what was taken."""

    reference: str
    amount: int


@dataclass(frozen=True)
class Refused:
    """The provider won't capture, void or refund. ``reason``: a code, e.g. ``already_voided``."""

    reason: str


@dataclass(frozen=True)
class Movement:
    """Money that the provider took or gave back."""

    key: str
    kind: Literal["captured", "refunded"]
    amount: int
    currency: str


Outcome = Authorized | Declined | Captured | Voided | Refunded | Refused


class GatewayError(Transient):
    """The provider failed (HTTP 5xx). Nothing was booked."""


class GatewayDown(Outage):
    """The provider can't be reached. Nothing was booked."""


class GatewayTimeout(Transient):
    """No answer came: the outcome is unknown. Ask ``find(key)`` before anything is tried again."""


class KeyReused(ValueError):
    """An idempotency key came again with other parameters. A bug: no retry mends it."""


class Gateway(Protocol):
    """A payment provider. Any call may raise GatewayError, GatewayDown or GatewayTimeout."""

    def authorize(self, *, key: str, token: str, amount: int, currency: str) -> Authorized | Declined:
        """Hold ``amount`` on the means of payment that ``token`` stands for."""

    def capture(self, *, key: str, reference: str, amount: int) -> Captured | Refused:
        """Take ``amount`` of what is held; all captures together never exceed it."""

    def void(self, *, key: str, reference: str) -> Voided | Refused:
        """Let go of everything held, as long as nothing was captured."""

    def refund(self, *, key: str, reference: str, amount: int) -> Refunded | Refused:
        """Give back ``amount`` of what was captured; all refunds together never exceed it."""

    def find(self, key: str) -> Outcome | None:
        """What became of the call with this key; None: the provider has booked nothing for it."""

    def movements(self, first: str, last: str) -> Iterable[Movement]:
        """The money taken and given back by calls with keys from ``first`` up to, not including, ``last``.

        The keys of payments begin with the order's id, so they sort by when the order was placed.
        """


#: The provider that ``settings.PAYMENT_GATEWAY`` names.
gateway = ExternalSystem[Gateway](
    "payment gateway", "PAYMENT_GATEWAY", reads={"find", "movements"}, probe=lambda it: it.find("probe")
)
