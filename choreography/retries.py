"""The one retry policy: error + history -> again later, or park. Pure: no clock, no chance, no I/O of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import Error as DatabaseError
from django.db import IntegrityError, InterfaceError, OperationalError

from choreography.conf import Conf
from choreography.errors import Conflict, ContractError, NotYet, Outage, Transient, Unusable

#: SQLSTATE of a deadlock and of a serialization failure: the database is fine, the transaction was unlucky.
#: https://www.postgresql.org/docs/15/errcodes-appendix.html
_UNLUCKY = {"40P01", "40001", "55P03"}


@dataclass(frozen=True)
class History:
    """What has happened to a delivery before this attempt. It travels in the message's headers."""

    first_seen: datetime
    """When the first attempt began, or the last outage was met: what is down must not make a delivery old."""
    attempts: int = 0
    """Attempts that failed and count."""
    waits: int = 0
    """Times it was put back without a failure of its own: an outage, or a prerequisite not there yet."""


@dataclass(frozen=True)
class Again:
    """Try again after ``delay`` seconds, on the rung of the ladder that lasts ``tier`` seconds."""

    tier: int
    delay: float
    history: History


@dataclass(frozen=True)
class Park:
    """Give up and keep it where a person can see it."""

    attempts: int


def decide(error: Exception, history: History, now: datetime, jitter: float, conf: Conf) -> Again | Park:
    """Say what becomes of a delivery whose attempt ended with ``error``.

    ========================  ==========================================================================
    ``NotYet``                waits, uncounted; parked after ``conf.max_wait``
    ``Outage``                waits, uncounted, for as long as it takes
    ``Transient``             backs off; parked after ``conf.max_attempts`` or ``conf.max_age``
    ``Unusable``              parked at once, as is a ``ContractError``
    anything else (a bug)     backs off; parked after ``conf.max_attempts_of_a_bug``
    ========================  ==========================================================================

    Args:
        jitter: from 0 up to 1; delays are spread over the upper half of the rung (equal jitter, see
            https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    kind = classify(error)
    age = now - history.first_seen
    if issubclass(kind, Unusable | ContractError):
        return Park(history.attempts + 1)
    if issubclass(kind, NotYet):
        if age >= conf.max_wait:
            return Park(history.attempts)
        return _again(history.waits, replace(history, waits=history.waits + 1), jitter, conf.retry_tiers)
    if issubclass(kind, Outage):
        waited = replace(history, first_seen=now, waits=history.waits + 1)
        return _again(history.waits, waited, jitter, conf.retry_tiers)
    attempts = history.attempts + 1
    if issubclass(kind, Transient):
        if attempts >= conf.max_attempts or age >= conf.max_age:
            return Park(attempts)
    elif attempts >= conf.max_attempts_of_a_bug:
        return Park(attempts)
    return _again(history.attempts, replace(history, attempts=attempts), jitter, conf.retry_tiers)


def classify(error: Exception) -> type[Exception]:
    """The class of the tree in ``errors`` an exception stands for; its own class if it stands for none."""
    if isinstance(error, OperationalError | InterfaceError):
        state = getattr(error.__cause__, "pgcode", None)
        return Transient if state in _UNLUCKY or "locked" in str(error) else Outage
    if isinstance(error, IntegrityError | Conflict):
        return Transient
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, DatabaseError):
        return Transient
    return type(error)


def _again(step: int, history: History, jitter: float, tiers: Sequence[int]) -> Again:
    tier = tiers[min(step, len(tiers) - 1)]
    return Again(tier=tier, delay=tier * (0.5 + jitter / 2), history=history)
