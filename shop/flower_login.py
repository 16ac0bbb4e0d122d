"""Refuse an address that gave Flower wrong passwords again and again, as the admin does (``AXES_FAILURE_LIMIT``).

Flower has no setting for it, so its base handler is replaced in part.
"""

import time
from collections import OrderedDict
from typing import Any

from django.conf import settings
from flower.views import BaseHandler
from tornado.web import HTTPError

#: How many addresses are remembered.
_MOST = 1000


class WrongPasswords:
    """Counts wrong passwords by address. Thread-safe enough for Flower, which has one thread for requests."""

    def __init__(self, limit: int, seconds: float) -> None:
        """``limit``: wrong passwords after which an address is refused for so many seconds."""
        self._limit, self._seconds = limit, seconds
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def is_refused(self, address: str) -> bool:
        count, last = self._wrong.get(address, (0, 0.0))
        if time.monotonic() - last >= self._seconds:
            self._wrong.pop(address, None)
            return False
        return count >= self._limit

    def add(self, address: str) -> None:
        count, _ = self._wrong.pop(address, (0, 0.0))
        self._wrong[address] = count + 1, time.monotonic()
        while len(self._wrong) > _MOST:
            self._wrong.popitem(last=False)

    def forget(self, address: str) -> None:
        self._wrong.pop(address, None)


def slow_down() -> None:
    """Have Flower count wrong passwords and refuse whoever gives too many."""
    wrong = WrongPasswords(settings.AXES_FAILURE_LIMIT, settings.AXES_COOLOFF_TIME.total_seconds())
    find_user = BaseHandler.get_current_user

    def get_current_user(self: Any) -> Any:
        address = str(self.request.remote_ip)
        if wrong.is_refused(address):
            raise HTTPError(429, reason="Too many wrong passwords: try again later")
        try:
            user = find_user(self)
        except HTTPError as error:
            if error.status_code == 401 and self.request.headers.get("Authorization"):
                wrong.add(address)
            raise
        if self.request.headers.get("Authorization"):
            wrong.forget(address)
        return user

    BaseHandler.get_current_user = get_current_user
