"""Time, identity and chance: the three things a program can't repeat, in one place that tests can replace.

Product code asks ``world.now()``, ``world.new_id()`` and ``world.jitter()`` and never the system itself, so
that a test or a simulation decides them (see ``testing.FrozenWorld``).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import uuid_utils.compat as uuid_utils


class World(Protocol):
    """Where time, identity and chance come from."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    def new_id(self) -> UUID:
        """A UUIDv7: unique, and sorted by time."""

    def jitter(self) -> float:
        """A number from 0 up to, not including, 1."""


class RealWorld:
    """The system's own clock and randomness."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def new_id(self) -> UUID:
        return uuid_utils.uuid7()

    def jitter(self) -> float:
        return random.random()  # noqa: S311 (spreads retries, keeps no secret)


_world: World = RealWorld()


def now() -> datetime:
    """The time, aware, in UTC."""
    return _world.now()


def new_id() -> UUID:
    """A new UUIDv7."""
    return _world.new_id()


def jitter() -> float:
    """A number from 0 up to, not including, 1."""
    return _world.jitter()


@contextmanager
def replaced(world: World) -> Iterator[None]:
    """Use another world for the duration, in every thread of the process."""
    global _world
    before, _world = _world, world
    try:
        yield
    finally:
        _world = before
