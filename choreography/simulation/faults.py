"""What can go wrong with a process, and how an invariant that does not hold is reported."""

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from django.db import OperationalError


class Crash(BaseException):
    """A process is killed. No ``except Exception`` stops it."""


@dataclass(frozen=True)
class Violation:
    """Something that must not be."""

    invariant: str
    """The name of what does not hold."""
    about: Any
    """What it is about, such as the id of an order; ``None`` if that can't be told."""
    detail: str

    def __str__(self) -> str:
        about = "" if self.about is None else f" {self.about}:"
        return f"{self.invariant}:{about} {self.detail}"


class Violated(BaseException):
    """An invariant does not hold. No ``except Exception`` of the code under test stops it."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


@dataclass(frozen=True)
class Fault:
    """What happens to a process (a worker, a relay, a timer, a request) at one point of its work.

    ``dies`` ends it. ``fails`` makes the database, or the broker, unreachable from that point on. ``is unlucky`` makes
    the database refuse one statement because another transaction holds a lock.

    ==================  ============================================================================
    ``statement`` n     before its n-th SQL statement or commit
    ``before commit`` n before its n-th commit
    ``commit`` n        after its n-th commit, before it hears of it
    ``publish`` n       when the broker has taken n of its messages and confirmed none
    ``acknowledge`` n   when all is done and it has acknowledged n of its messages (only ``dies``)
    ==================  ============================================================================
    """

    how: Literal["dies", "fails", "is unlucky"]
    at: Literal["statement", "before commit", "commit", "publish", "acknowledge"]
    number: int = 0

    def __str__(self) -> str:
        return f"{self.how} at {self.at} {self.number}"


@dataclass
class Process:
    """One process at work."""

    fault: Fault | None = None
    statements: int = 0
    commits: int = 0
    acknowledged: int = 0

    def meets(self, how: str, at: str, number: int | None = None) -> bool:
        """Whether its fault is of this kind, at this point."""
        fault = self.fault
        return bool(fault and fault.how == how and fault.at == at and number in (None, fault.number))


class _Locked(Exception):
    """As both databases report a lock that another transaction holds."""

    pgcode = "55P03"
    sqlite_errorcode = sqlite3.SQLITE_BUSY


def locked() -> OperationalError:
    """The error of a statement that found a lock; the next attempt may not."""
    error = OperationalError("database is locked")
    error.__cause__ = _Locked()
    return error
