"""A message handed to one service, and what can come of it. ``handling`` says what does.

Knows neither Celery nor the broker, nor any database.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.events.messages import Headline, read_headline
from choreography.inbox.retry_policy import History

#: Headers in which a delivery's history and its dead letter travel. Foreign publishers need none of them.
ATTEMPTS, WAITS, FIRST_SEEN, LETTER, GIVEN_UP = (
    "x-choreography-attempts",
    "x-choreography-waits",
    "x-choreography-first-seen",
    "x-choreography-letter",
    "x-choreography-given-up",
)

#: What is down when a service can't reach its own database; otherwise it is called by its host's name.
DATABASE = "database"

#: What headers may claim, whoever wrote them: more attempts or waits are no history, and more letters no key.
_MOST = 10**6
_LONGEST_KEY = 150

#: Headers in which the broker notes a message's way; they are not sent again.
NOTES_OF_THE_BROKER = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")

#: Deliveries without an answer after which a message may be what ends its workers.
_SUSPICIOUS = 3


@dataclass(frozen=True)
class Delivery:
    """A message as it came from the broker, for one service."""

    service: str
    body: bytes
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    given_up: str | None = None
    """Why the broker gave it up (``delivery_limit``, ``rejected``), if it comes from the dead queue."""

    @property
    def history(self) -> History:
        """What the headers say happened before; a fresh history where they say nothing sensible."""
        try:
            first_seen = datetime.fromisoformat(self.headers[FIRST_SEEN])
            attempts, waits = int(self.headers[ATTEMPTS]), int(self.headers[WAITS])
        except (KeyError, TypeError, ValueError, OverflowError):
            return History(clock.now())
        sensible = first_seen.tzinfo is not None and 0 <= attempts <= _MOST and 0 <= waits <= _MOST
        return History(first_seen, attempts, waits) if sensible else History(clock.now())

    @cached_property
    def headline(self) -> Headline:
        """What event it holds.

        Raises:
            Unusable: it can't be told.
        """
        return read_headline(self.body, self.content_type, conf().max_body_bytes)

    @property
    def is_suspect(self) -> bool:
        """It has failed before, here or with a worker that died: others should not share a transaction with it."""
        if self.given_up is not None or GIVEN_UP in self.headers or LETTER in self.headers:
            return True
        if ATTEMPTS in self.headers and self.history.attempts > 0:
            return True
        unanswered = self.headers.get("x-delivery-count")
        return isinstance(unanswered, int) and unanswered >= _SUSPICIOUS

    @property
    def key(self) -> str:
        """One letter per message and service: the same bytes again are the same message, whatever id they claim."""
        return hashlib.sha256(self.body + b"\0" + (self.content_type or "").encode(errors="replace")).hexdigest()

    @property
    def letter(self) -> str | None:
        """The key of the dead letter that a person sent again, if this is one."""
        key = self.headers.get(LETTER)
        return key if isinstance(key, str) and key.isprintable() and 0 < len(key) <= _LONGEST_KEY else None


@dataclass(frozen=True)
class Done:
    """The reaction's changes, its inbox row and its outbox rows are committed."""


@dataclass(frozen=True)
class Duplicate:
    """It had taken effect before; nothing was changed."""


@dataclass(frozen=True)
class Later:
    """Nothing was changed. ``again`` belongs on the retry ladder; it comes back after ``delay`` seconds."""

    again: Outgoing
    delay: float
    error: Exception
    down: str | None = None
    """What seems to be down, if that is why: ``DATABASE`` or the name of the host the reaction asks."""


@dataclass(frozen=True)
class Parked:
    """It is in the dead-letter table, for a person."""

    error: Exception


Outcome = Done | Duplicate | Later | Parked


@dataclass(frozen=True)
class Left:
    """Nothing was changed and nothing is decided: it is to be handed in again."""

    alone: bool
    """On its own: with others it did not go well. Otherwise there was just no time to ask for it."""


def reason_of_death(headers: Mapping[str, Any]) -> str:
    """The broker's note why it dead-lettered a message: ``rejected``, ``delivery_limit``, ``expired``, ``maxlen``."""
    match headers.get("x-death"):
        case [{"reason": str(reason)}, *_]:
            return reason
        case _:
            return "unknown"
