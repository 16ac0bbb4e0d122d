"""Time, identifiers and jitter: what a program can't repeat, in one place that tests can replace.

Product code asks ``clock.now()``, ``clock.new_id()`` and ``clock.jitter()`` and never the system itself, so that a
test or a simulation decides them (see ``testing.FrozenClock``).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
    """The system's own clock and randomness."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def new_id(self) -> UUID:
        return uuid_utils.uuid7()

    def jitter(self) -> float:
        return random.random()  # noqa: S311 (spreads retries, keeps no secret)


_clock: Clock = SystemClock()


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
