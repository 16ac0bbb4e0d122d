"""What waits in a worker's process, and which of it may be handled together next.

A free worker takes what waits: one delivery when there is one, up to a limit when there are many. Groups grow while
others are being handled. Quick reactions take turns: side by side they would only contend for the interpreter and the
database. After each turn they rest half as long as it took, which what comes at low load does not meet, and which
leaves the processor to others when it is scarce: then turns take longer, and more shares the next transaction. Where
handling takes long, as with a slow company outside, groups are handled side by side. Who turns out to take long is
not waited for.

The events of one subject stay in the order in which they came: while one is being handled, or stands before, the next
is left alone. So no two of a group are of one subject, groups don't contend for rows, and what arrives in order needs
no retry.
"""

import threading
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from choreography.core import clock
from choreography.inbox.deliveries import Delivery

#: A reaction is slow if its last group took this long for each delivery, and this long in all.
_SLOW, _LONG = timedelta(milliseconds=25), timedelta(milliseconds=100)
#: How long quick reactions rest after a turn, as a share of what it took.
_REST = 0.5


@dataclass(eq=False)
class Arrival:
    """A delivery that has come, and the broker's message that brought it."""

    task: str
    """The name of the reaction it is for."""
    subject: UUID | None
    """``None``: it could not be read."""
    identity: str
    """What tells it apart from others in its queue."""
    delivery: Delivery
    message: Any
    answers: Any
    """Where the message is acknowledged."""
    queue: str
    alone: bool = False
    """It must not share a transaction: it has failed before, or is not an event."""

    @property
    def key(self) -> Hashable:
        """What has this in common is handled one after the other."""
        return (self.delivery.service, self.subject) if self.subject else self.identity


class _Turn(NamedTuple):
    """A group that is being handled."""

    task: str
    since: datetime
    until: datetime
    """From then on it is slow."""


@dataclass
class Groups:
    """What waits and what is being handled. Safe among threads.

    ``limit`` is how many deliveries share one transaction at most, ``slots`` how many groups are handled at a time,
    ``rests`` whether quick reactions rest after a turn.
    """

    limit: int
    slots: int
    rests: bool = True
    _waiting: deque[Arrival] = field(default_factory=deque)
    _busy: set[Hashable] = field(default_factory=set)
    #: The groups being handled, by their first delivery.
    _running: dict[int, _Turn] = field(default_factory=dict)
    #: Reactions that were not slow, last time.
    _quick: set[str] = field(default_factory=set)
    _rest_until: datetime = field(default_factory=clock.now)
    _limits: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, arrival: Arrival) -> None:
        with self._lock:
            self._waiting.append(arrival)

    def take(self) -> list[Arrival]:
        """The oldest that may be handled now, with all that may share its transaction. Empty: nothing may, now.

        What is taken is busy until ``release``.
        """
        with self._lock:
            if len(self._running) >= self.slots:
                return []
            group = self._next()
            if group:
                now = clock.now()
                self._running[id(group[0])] = _Turn(group[0].task, now, now + self._is_slow_after(len(group)))
                self._busy.update(arrival.key for arrival in group)
                taken = set(map(id, group))
                self._waiting = deque(arrival for arrival in self._waiting if id(arrival) not in taken)
            return group

    def release(self, group: Sequence[Arrival], again: Sequence[Arrival] = ()) -> float:
        """A group is done with, but for ``again``, which waits in front of all others from now on.

        Where there was no time to ask for everything the next groups of that reaction are smaller, so that others
        can take a share of what waits.

        Returns:
            Seconds after which there may be more to take: quick reactions rest, unless a full group shows that more
            waits than they can handle.
        """
        with self._lock:
            task, since, until = self._running.pop(id(group[0]))
            now = clock.now()
            is_quick = now < until
            (self._quick.add if is_quick else self._quick.discard)(task)
            rest = _REST * (now - since) if self.rests and is_quick and len(group) < self.limit else timedelta()
            if rest:
                self._rest_until = now + rest
            self._busy.difference_update(arrival.key for arrival in group)
            self._waiting.extendleft(reversed(again))
            unasked = sum(not arrival.alone for arrival in again)
            limit = self._limits.pop(task, self.limit)
            limit = max(len(group) - len(again), 1) if unasked else 2 * limit
            if limit < self.limit:
                self._limits[task] = limit
            return rest.total_seconds()

    def forget(self) -> None:
        """What waits belongs to a connection that is lost. What is being handled goes on."""
        with self._lock:
            self._waiting.clear()

    @staticmethod
    def _is_slow_after(deliveries: int) -> timedelta:
        return max(_SLOW * deliveries, _LONG)

    def _next(self) -> list[Arrival]:
        group: list[Arrival] = []
        limit = self.limit
        passed = set(self._busy)
        now = clock.now()
        at_work = any(turn.task in self._quick and now < turn.until for turn in self._running.values())
        # Nobody rests longer than half of the longest turn: then the clock was set back.
        rests = timedelta() < self._rest_until - now <= _REST * self._is_slow_after(self.limit)
        held_up = self._quick if at_work or rests else ()
        for arrival in self._waiting:
            if arrival.key in passed:
                continue
            passed.add(arrival.key)
            if arrival.task in held_up:
                continue
            if not group:
                group.append(arrival)
                limit = 1 if arrival.alone else self._limits.get(arrival.task, self.limit)
            elif arrival.task == group[0].task and not arrival.alone:
                group.append(arrival)
            if len(group) >= limit:
                break
        return group
