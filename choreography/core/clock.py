"""Time, identifiers and jitter: what a program can't repeat, in one place that tests can replace.

Product code asks ``clock.now()``, ``clock.new_id()`` and ``clock.jitter()`` and never the system itself, so that a
test or a simulation decides them (see ``testing.FrozenClock``).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import uuid_utils.compat as uuid_utils


class Clock(Protocol):
    """Where time, identifiers and jitter come from."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    def new_id(self) -> UUID:
        """A UUIDv7: unique, and sorted by time."""

    def jitter(self) -> float:
        """A number from 0 up to, not including, 1."""


class SystemClock:
    """The time of the service's database where it has one, and the system's randomness.

    The clocks of several hosts differ, and processes compare times that others have written: how long an order has not
    been paid for, when a retry is due back. So a process takes the time from the database that holds them
    (``storage.database_clock``), and counts on from there.
    """

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def set(self, now: datetime) -> None:
        """From here on it is ``now``. A difference of less than a second is left alone."""
        ahead = now - datetime.now(UTC)
        self._ahead = ahead if abs(ahead) >= _TOLERATED else timedelta()

    def new_id(self) -> UUID:
        return uuid_utils.uuid7()

    def jitter(self) -> float:
        return random.random()  # noqa: S311 (spreads retries, keeps no secret)


#: What a query takes, and what clocks that are kept right differ by.
_TOLERATED = timedelta(seconds=1)
system = SystemClock()
_clock: Clock = system


def now() -> datetime:
    """The time, aware, in UTC."""
    return _clock.now()


def new_id() -> UUID:
    """A new UUIDv7."""
    return _clock.new_id()


def jitter() -> float:
    """A number from 0 up to, not including, 1."""
    return _clock.jitter()


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Use another clock for the duration, in every thread of the process."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before
