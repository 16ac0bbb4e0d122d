"""Deliveries that wait for another event are tried as soon as it has been handled, where one process sees both.

The retry ladder keeps the promise; this only saves time. What a process remembers ends with it, and the copy on the
ladder then finds the work done.
"""

import threading
from collections import OrderedDict
from uuid import UUID

from choreography.core.errors import NotYet
from choreography.inbox import handler
from choreography.inbox.deliveries import Delivery, Done, Outcome, RetryLater

#: How many flows a process remembers.
_MOST = 1000

Flow = tuple[str, str]
"""A service, and the subject all events of one flow share."""


class WaitingDeliveries:
    """What a process put on the ladder for a prerequisite that has not arrived. Thread-safe.

    It remembers ``most`` flows, and forgets the oldest first.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._remembered: OrderedDict[Flow, dict[UUID, Delivery]] = OrderedDict()
        self._lock = threading.Lock()

    def update(self, delivery: Delivery, outcome: Outcome) -> None:
        """Remember a delivery that waits for another event; after any other that is done, try what waited for it.

        Call it once the ladder has the delivery. Never raises for anything a resumed delivery meets.
        """
        match outcome:
            case RetryLater(error=NotYet()):
                self._remember(delivery)
            case Done() if self._remembered:
                self._resume_after(delivery)

    def forget(self) -> None:
        """As when the process dies."""
        with self._lock:
            self._remembered.clear()

    def _remember(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        with self._lock:
            self._remembered.setdefault((delivery.service, envelope.subject), {})[envelope.id] = delivery
            while len(self._remembered) > self._most:
                self._remembered.popitem(last=False)

    def _resume_after(self, done: Delivery) -> None:
        """Try what waits for the same flow in the same service, as long as any of it takes effect."""
        envelope = done.envelope
        with self._lock:
            waiting = self._remembered.pop((done.service, envelope.subject), {})
        waiting.pop(envelope.id, None)
        while waiting:
            still_waiting = {event: each for event, each in waiting.items() if not handler.resume(each)}
            if len(still_waiting) == len(waiting):
                break
            waiting = still_waiting
        for each in waiting.values():
            self._remember(each)
