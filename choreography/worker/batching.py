"""Which of the deliveries that wait in a worker's process may be handled together next.

A free worker takes what waits: one delivery when there is one, up to a limit when there are many. Batches grow while
others are being handled. Only one batch of quick reactions runs at a time: side by side they would only contend for
the interpreter and the database. After each, quick reactions pause for half as long as it took. At low load no
delivery arrives during a pause; when the processor is scarce, batches take longer, so do pauses, and more deliveries
share the next transaction. Slow reactions, which wait for an external system, run side by side. A reaction that turns
out to be slow is not waited for.

The events of one subject are handled in the order in which they arrived: while one is being handled, or waits in front,
the next is passed over. So no two of a batch are of one subject, batches don't contend for rows, and what arrives in
order needs no retry.

Deliveries that failed before share batches with their like: a bad one among them costs no delivery that is new, and
after an outage a slow external system is asked for many at a time. A delivery that failed in a batch is handled on its
own. Those that may end the process share batches as well, and are handled while nothing else is.
"""

import threading
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from choreography.core import clock
from choreography.inbox.deliveries import Delivery

#: A reaction is slow if its last batch took this long for each delivery, and this long in all.
_SLOW_EACH, _SLOW_IN_ALL = timedelta(milliseconds=25), timedelta(milliseconds=100)
#: As many suspects share a batch at most. If it ends the process, each is handled alone.
_SUSPECTS = 20
#: How long quick reactions pause after a batch, as a share of what it took.
_PAUSE = 0.5


class _Running(NamedTuple):
    """A batch that is being handled."""

    task: str
    since: datetime
    slow_from: datetime


@dataclass
class Batcher:
    """What waits and what is being handled. Thread-safe.

    ``limit`` is how many deliveries share one transaction at most, ``slots`` how many batches are handled at a time,
    ``pauses`` whether quick reactions pause after a batch.
    """

    limit: int
    slots: int
    pauses: bool = True
    _waiting: deque[Delivery] = field(default_factory=deque)
    #: How many of them each task has.
    _tasks: Counter[str] = field(default_factory=Counter)
    #: The subjects of which an event is being handled, and which delivery that is.
    _busy: dict[Hashable, Delivery] = field(default_factory=dict)
    #: The batches being handled, by their first delivery.
    _running: dict[int, _Running] = field(default_factory=dict)
    #: A delivery is being handled that allows no other.
    _is_exclusive: bool = False
    #: The tasks that were not slow, last time.
    _quick: set[str] = field(default_factory=set)
    _pause_until: datetime = field(default_factory=clock.now)
    _limits: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, delivery: Delivery) -> None:
        with self._lock:
            self._waiting.append(delivery)
            self._tasks[delivery.task] += 1

    def take(self) -> list[Delivery]:
        """The oldest that may be handled now, with all that may share its transaction. Empty: none may, now.

        What is taken is busy until ``release``.
        """
        with self._lock:
            if len(self._running) >= self.slots or self._is_exclusive:
                return []
            batch = self._next()
            if batch:
                now = clock.now()
                self._running[id(batch[0])] = _Running(batch[0].task, now, now + self._slow_after(len(batch)))
                self._busy.update((delivery.flow, delivery) for delivery in batch)
                self._is_exclusive = batch[0].exclusive
                self._tasks[batch[0].task] -= len(batch)
                self._remove(set(map(id, batch)))
            return batch

    def free(self, deliveries: Sequence[Delivery]) -> None:
        """They have taken effect, though not all of their batch have: the next of their subjects may be handled."""
        with self._lock:
            self._free(deliveries)

    def release(self, batch: Sequence[Delivery], again: Sequence[Delivery] = ()) -> float:
        """A batch has been handled, but for ``again``, which is put in front of everything that waits.

        Where there was no time to call the external system for all of them, the next batches of that task are smaller,
        so that other slots can take a share of what waits.

        Returns:
            Seconds after which there may be more to take: quick reactions pause, unless a full batch shows that more
            waits than they can handle.
        """
        with self._lock:
            task, since, slow_from = self._running.pop(id(batch[0]))
            self._is_exclusive = False  # if it was, this was the only batch
            now = clock.now()
            is_quick = now < slow_from
            (self._quick.add if is_quick else self._quick.discard)(task)
            has_pause = self.pauses and is_quick and 1 < len(batch) < self.limit
            pause = _PAUSE * (now - since) if has_pause else timedelta()
            if pause:
                self._pause_until = now + pause
            self._free(batch)
            self._waiting.extendleft(reversed(again))
            self._tasks[task] += len(again)
            out_of_time = any(not (delivery.alone or delivery.exclusive) for delivery in again)
            limit = self._limits.pop(task, self.limit)
            limit = max(len(batch) - len(again), 1) if out_of_time else 2 * limit
            if limit < self.limit:
                self._limits[task] = limit
            return pause.total_seconds()

    def forget(self) -> None:
        """What waits belongs to a connection that is lost. What is being handled continues."""
        with self._lock:
            self._waiting.clear()
            self._tasks.clear()

    def _free(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            # Not if it was freed before, and the next of its subject is being handled by now; nor if it is not being
            # handled here at all, as one that waits on the ladder and is resumed.
            if self._busy.get(delivery.flow) is delivery:
                del self._busy[delivery.flow]

    def _remove(self, taken: set[int]) -> None:
        """They wait no longer. Mostly they were the first, and what comes after them need not be looked at."""
        first = 0
        while self._waiting and id(self._waiting[0]) in taken:
            self._waiting.popleft()
            first += 1
        if first < len(taken):
            self._waiting = deque(delivery for delivery in self._waiting if id(delivery) not in taken)

    def _limit_of(self, first: Delivery) -> int:
        if first.alone:
            return 1
        limit = self._limits.get(first.task, self.limit)
        return min(limit, _SUSPECTS) if first.exclusive else limit

    @staticmethod
    def _slow_after(deliveries: int) -> timedelta:
        return max(_SLOW_EACH * deliveries, _SLOW_IN_ALL)

    def _next(self) -> list[Delivery]:
        batch: list[Delivery] = []
        limit = self.limit
        passed = set(self._busy)
        now = clock.now()
        quick_one_runs = any(it.task in self._quick and now < it.slow_from for it in self._running.values())
        # A pause longer than the maximum means the clock was set back; ignore it.
        is_pause = timedelta() < self._pause_until - now <= _PAUSE * self._slow_after(self.limit)
        not_now = self._quick if quick_one_runs or is_pause else set()
        if not_now and not any(count and task not in not_now for task, count in self._tasks.items()):
            return batch
        for delivery in self._waiting:
            if delivery.flow in passed:
                continue
            passed.add(delivery.flow)
            if delivery.task in not_now:
                continue
            if not batch:
                if delivery.exclusive and self._running:
                    break  # it waits for them, and others that came later wait for it
                batch.append(delivery)
                limit = self._limit_of(delivery)
            elif delivery.may_join(batch[0]):
                batch.append(delivery)
            if len(batch) >= limit:
                break
        return batch
