"""The one retry policy: error + history -> try again later, or park. Pure: time and jitter are passed in; no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from choreography.core.classification import classify
from choreography.core.conf import Conf
from choreography.core.errors import ContractError, NotYet, Outage, Transient, Unusable

#: Waits that stay on one rung before the next is taken, where another event is waited for: it is likely to come soon.
_WAITS_PER_RUNG = 10
#: Seconds of the longest rung on which anything waits that did not fail itself, so that it is handled soon afterwards.
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
class TryAgain:
    """Try again after ``delay`` seconds, on the rung of the ladder that lasts ``rung`` seconds."""

    rung: int
    delay: float
    history: History


@dataclass(frozen=True)
class Park:
    """Give up and keep it where a person can see it."""

    attempts: int


def decide(error: Exception, history: History, now: datetime, jitter: float, conf: Conf) -> TryAgain | Park:
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

    The seconds are those of the ladder as ``conf.retry_rungs`` has it by default.

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
    return _again(history.attempts, replace(history, attempts=attempts), jitter, conf.retry_rungs)


def _rungs_to_wait_on(conf: Conf) -> Sequence[int]:
    return [rung for rung in conf.retry_rungs if rung <= _LONGEST_WAIT] or conf.retry_rungs[:1]


def _again(step: int, history: History, jitter: float, rungs: Sequence[int]) -> TryAgain:
    rung = rungs[min(step, len(rungs) - 1)]
    return TryAgain(rung=rung, delay=rung * (0.5 + jitter / 2), history=history)
