"""Deliveries that wait for another event are tried at once when it has come, where one process sees both.

The ladder is the promise and this only a short cut: what a process remembers dies with it, and the copy on the
ladder finds the work done.
"""

import threading
from collections import OrderedDict
from uuid import UUID

from choreography.core.errors import NotYet
from choreography.inbox import handler
from choreography.inbox.deliveries import Delivery, Done, Later, Outcome

#: For how many flows a process remembers what waits.
_MOST = 1000

Flow = tuple[str, UUID]
"""A service, and the subject all events of one flow share."""


class Waiting:
    """What a process put on the ladder for a prerequisite that has not arrived. Safe among threads.

    It remembers ``most`` flows, and forgets the oldest first.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._remembered: OrderedDict[Flow, dict[UUID, Delivery]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, mail: Delivery, outcome: Outcome) -> None:
        """Remember what waits for another event, once the ladder has it; try what waited when that event is done.

        Never raises for anything a resumed delivery meets.
        """
        match outcome:
            case Later(error=NotYet()):
                self._remember(mail)
            case Done() if self._remembered:
                self._resume_after(mail)

    def forget(self) -> None:
        """As when the process dies."""
        with self._lock:
            self._remembered.clear()

    def _remember(self, waiting: Delivery) -> None:
        headline = waiting.headline
        with self._lock:
            self._remembered.setdefault((waiting.service, headline.subject), {})[headline.id] = waiting
            while len(self._remembered) > self._most:
                self._remembered.popitem(last=False)

    def _resume_after(self, done: Delivery) -> None:
        """Try what waits for the same flow in the same service, as long as any of it gets on."""
        headline = done.headline
        with self._lock:
            waiting = self._remembered.pop((done.service, headline.subject), {})
        waiting.pop(headline.id, None)
        while waiting:
            left = {event: each for event, each in waiting.items() if not handler.resume(each)}
            if len(left) == len(waiting):
                break
            waiting = left
        for each in waiting.values():
            self._remember(each)
