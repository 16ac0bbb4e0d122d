"""The one retry policy: error + history -> again later, or park. Pure: no clock, no chance, no I/O of its own."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError

from choreography.conf import Conf
from choreography.errors import Conflict, ContractError, NotYet, Outage, Transient, Unusable

#: SQLSTATEs with which the database is fine and the transaction was unlucky: a deadlock, a serialization failure, a
#: lock not to be had, a statement that took too long. https://www.postgresql.org/docs/15/errcodes-appendix.html
_UNLUCKY = {"40P01", "40001", "55P03", "57014"}
#: After a failover: what we are connected to may only be read.
_READ_ONLY = "25006"
#: The same for SQLite: the file is locked. https://www.sqlite.org/rescode.html
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

#: Waits that stay on one rung before the next is taken, where another event is waited for: it is likely to come soon.
_WAITS_PER_RUNG = 10
#: Seconds of the longest rung on which anything waits that did not fail itself, so that it goes on soon afterwards.
_LONGEST_WAIT = 30


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
    ``NotYet``                waits, uncounted: ten times 1 s, ten times 5 s, then 30 s; parked after
                              ``conf.max_wait``
    ``Outage``                waits, uncounted, 1 s, 5 s, then 30 s, for as long as it takes
    ``Transient``             backs off, up the whole ladder; parked after ``conf.max_attempts`` or
                              ``conf.max_age``
    ``Unusable``              parked at once, as is a ``ContractError``
    anything else (a bug)     backs off; parked after ``conf.max_attempts_of_a_bug``
    ========================  ==========================================================================

    The seconds are those of the ladder as ``conf.retry_tiers`` has it by default.

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
        waited = replace(history, waits=history.waits + 1)
        return _again(history.waits // _WAITS_PER_RUNG, waited, jitter, _rungs_to_wait_on(conf))
    if issubclass(kind, Outage):
        waited = replace(history, first_seen=now, waits=history.waits + 1)
        return _again(history.waits, waited, jitter, _rungs_to_wait_on(conf))
    attempts = history.attempts + 1
    if issubclass(kind, Transient):
        if attempts >= conf.max_attempts or age >= conf.max_age:
            return Park(attempts)
    elif attempts >= conf.max_attempts_of_a_bug:
        return Park(attempts)
    return _again(history.attempts, replace(history, attempts=attempts), jitter, conf.retry_tiers)


def classify(error: Exception) -> type[Exception]:
    """The class of the tree in ``errors`` an exception stands for; its own class if it stands for none."""
    if isinstance(error, IntegrityError | Conflict):
        return Transient
    if isinstance(error, DatabaseError | InterfaceError):
        return _classify_of_database(error)
    if isinstance(error, ConnectionError | TimeoutError):
        return Transient
    return type(error)


def is_database_down(error: Exception) -> bool:
    """Whether an outage is one of the database, rather than of a host outside."""
    return isinstance(error, DatabaseError | InterfaceError) and classify(error) is Outage


def _classify_of_database(error: Exception) -> type[Exception]:
    """By what the server says (``pgcode``) or SQLite (``sqlite_errorcode``): Django's classes alone are too coarse."""
    state = getattr(error.__cause__, "pgcode", None)
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    if state in _UNLUCKY or (code is not None and code & 0xFF in _LOCKED):
        return Transient
    if state == _READ_ONLY:
        return Outage
    if isinstance(error, OperationalError | InterfaceError) and code != sqlite3.SQLITE_ERROR:
        return Outage
    # What psycopg2 raises when a connection breaks in the middle of an answer.
    return Outage if type(error) is DatabaseError and state is None else type(error)


def _rungs_to_wait_on(conf: Conf) -> Sequence[int]:
    return [tier for tier in conf.retry_tiers if tier <= _LONGEST_WAIT] or conf.retry_tiers[:1]


def _again(step: int, history: History, jitter: float, tiers: Sequence[int]) -> Again:
    tier = tiers[min(step, len(tiers) - 1)]
    return Again(tier=tier, delay=tier * (0.5 + jitter / 2), history=history)
