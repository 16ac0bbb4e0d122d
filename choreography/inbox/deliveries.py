"""A message delivered to one service, and the outcomes of handling it.

Knows neither Celery nor the broker, nor any database.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from choreography.broker import topology
from choreography.broker.publisher import Outgoing
from choreography.core import clock
from choreography.core.conf import conf
from choreography.core.errors import Unusable
from choreography.events.messages import Envelope, Event, Moment, read_envelope, read_event
from choreography.events.registry import Reaction
from choreography.events.versions import is_upcast, lift, reaction_of, reads
from choreography.inbox.retry_policy import History

#: Headers in which a delivery's history and its dead letter travel. Foreign publishers need none of them.
ATTEMPTS, WAITS, FIRST_SEEN, DEAD_LETTER, GIVEN_UP, CAME_BACK, PUBLISHED = (
    "x-choreography-attempts",
    "x-choreography-waits",
    "x-choreography-first-seen",
    "x-choreography-dead-letter",
    "x-choreography-given-up",
    "x-choreography-came-back",
    topology.PUBLISHED,
)

#: Why a delivery is given up that a person has revoked.
REVOKED = "revoked by remote control (Flower's Revoke, or celery control revoke)"
#: Why a delivery is given up that never ended, handled alone.
ENDED_PROCESSES = "each time it was handled, the worker's process ended"
#: What is down when a service can't reach its own database; an external system is called by its own name.
DATABASE = "database"

#: What headers may claim, whoever wrote them: more attempts or waits are no history, and longer text no key.
_MOST = 10**6
_LONGEST_KEY = 150
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)

#: Headers in which the broker records a message's way; they are not sent again.
BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")

#: Deliveries without an acknowledgement after which a message is suspected of killing its workers.
SUSPICIOUS = 2


def _nothing(deliveries: Sequence["Delivery"]) -> None:
    pass


@dataclass
class Delivery:
    """A message as it came from the broker, for one service."""

    service: str
    body: bytes
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    given_up: str | None = None
    """Why the broker dead-lettered it (``delivery_limit``, ``rejected``), if it comes from the dead-letter queue."""
    message: Any = field(default=None, repr=False, compare=False)
    """The broker's message, to be acknowledged. Stays in the process that received it."""
    alone: bool = False
    """It must not share a transaction with others."""
    exclusive: bool = False
    """Nothing but its batch must be handled in the process at the same time."""
    received_at: datetime | None = None
    """When the worker got it."""
    started_at: datetime | None = None
    """When handling it began."""
    when_committed: Callable[[Sequence["Delivery"]], None] = field(default=_nothing, repr=False, compare=False)
    """Called with those of a batch that have taken effect before it has ended. Stays in the receiving process."""

    def __post_init__(self) -> None:
        """What the broker gave up stays given up when it comes back from the ladder, where it waited to be parked."""
        if GIVEN_UP in self.headers:
            headers = dict(self.headers)
            self.given_up = self.given_up or str(headers.pop(GIVEN_UP))
            self.headers = headers

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a process of the pool: not the broker's message, nor what was read already."""
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        return state | {"message": None, "when_committed": _nothing}

    @property
    def history(self) -> History:
        """What the headers say happened before; a fresh history where they say nothing sensible."""
        try:
            first_seen = datetime.fromisoformat(self.headers[FIRST_SEEN])
            attempts, waits = int(self.headers[ATTEMPTS]), int(self.headers[WAITS])
        except (KeyError, TypeError, ValueError, OverflowError):
            return History(clock.now())
        is_sensible = first_seen.tzinfo is not None and 0 <= attempts <= _MOST and 0 <= waits <= _MOST
        return History(first_seen, attempts, waits) if is_sensible else History(clock.now())

    @property
    def attempts(self) -> int:
        """How often it was tried before."""
        return self.history.attempts if ATTEMPTS in self.headers else 0

    @cached_property
    def envelope(self) -> Envelope:
        """Which event it holds.

        Raises:
            Unusable: it can't be told, or the headers are too large.
        """
        size, allowed = _size_of(self.headers), conf().max_header_bytes
        if size > allowed:
            raise Unusable(f"the headers have {size} bytes, more than the {allowed} allowed")
        return read_envelope(self.body, self.content_type, conf().max_body_bytes)

    @cached_property
    def reaction(self) -> Reaction:
        """The service's reaction to it.

        Raises:
            Unusable: there is none, or it can't be told which event it is.
        """
        reaction = reaction_of(self.service, self.envelope.type)
        if reaction is None:
            raise Unusable(f"{self.service} has no reaction to {self.envelope.type}")
        return reaction

    @cached_property
    def event(self) -> Event[Any]:
        """The event, with its data as the reaction reads it.

        Raises:
            Unusable: the reaction can't read it, or the broker or a person has given it up.
        """
        reaction = self.reaction
        if self.given_up is not None:
            by_us = self.given_up in (REVOKED, ENDED_PROCESSES)
            raise Unusable(self.given_up if by_us else f"the broker gave it up: {self.given_up}")
        event = _read(self.body, reaction, self.envelope.type)
        if event.hops is not None and event.hops > conf().max_hops:
            raise Unusable(
                f"{event.hops} reactions led to it, one after the other: they seem to go round in a circle "
                "(CHOREOGRAPHY['MAX_HOPS'])"
            )
        if self.published_at is not None:
            event = event.model_copy(update={"published_at": self.published_at})
        return event

    @cached_property
    def published_at(self) -> datetime | None:
        """When the relay gave it to the broker, as the relay says."""
        try:
            return _MOMENT.validate_python(self.headers[PUBLISHED])
        except (KeyError, ValidationError):
            return None

    @cached_property
    def task(self) -> str:
        """The name of the task that handles it: the reaction's, or that of what parks unusable messages."""
        try:
            return self.reaction.name
        except Unusable:
            return parking_task(self.service)

    @property
    def has_reaction(self) -> bool:
        """It can be told which event it is, and the service reacts to it."""
        return self.task != parking_task(self.service)

    @cached_property
    def identity(self) -> str:
        """What tells it apart from others of the service: the event's id, or a digest of what could not be read."""
        try:
            return str(self.envelope.id)
        except Unusable:
            return hashlib.sha256(self.body).hexdigest()

    @cached_property
    def flow(self) -> tuple[str, str]:
        """What deliveries are handled in the order of their arrival for: a subject, or the message alone."""
        try:
            return "subject", f"{self.service}:{self.envelope.subject}"
        except Unusable:
            return "message", self.identity

    @property
    def has_failed(self) -> bool:
        """It has failed before, and will be run again: only others of this kind should share a transaction with it."""
        if self.given_up is not None:
            return False
        if DEAD_LETTER in self.headers:
            return True
        return self.attempts > 0

    def may_join(self, other: "Delivery") -> bool:
        """Whether it may be handled in one transaction with another, which waited longer."""
        is_of_its_kind = (self.task, self.has_failed, self.exclusive) == (other.task, other.has_failed, other.exclusive)
        return is_of_its_kind and not self.alone

    @property
    def is_suspect(self) -> bool:
        """Workers that had it died: it may have ended them (see ``suspects``)."""
        return self.given_up is None and self.came_back >= SUSPICIOUS

    @property
    def came_back(self) -> int:
        """How often it was delivered without an acknowledgement, before it was on the ladder and since."""
        counts = (self.headers.get(name) for name in ("x-delivery-count", CAME_BACK))
        return sum(count for count in counts if isinstance(count, int) and 0 <= count <= _MOST)

    @property
    def key(self) -> str:
        """One per message and service: the same bytes again are the same message, whatever id they claim."""
        return hashlib.sha256(self.body + b"\0" + (self.content_type or "").encode(errors="replace")).hexdigest()

    @property
    def dead_letter(self) -> str | None:
        """The key of the dead letter that a person sent again, if this is one."""
        key = self.headers.get(DEAD_LETTER)
        return key if isinstance(key, str) and key.isprintable() and 0 < len(key) <= _LONGEST_KEY else None


@dataclass(frozen=True)
class Done:
    """The reaction's changes, its inbox row and its outbox rows are committed."""


@dataclass(frozen=True)
class Duplicate:
    """It had taken effect before; nothing was changed."""


@dataclass(frozen=True)
class RetryLater:
    """Nothing was changed. ``again`` belongs on the retry ladder; it comes back after ``delay`` seconds."""

    again: Outgoing
    delay: float
    error: Exception
    down: str | None = None
    """What seems to be down, if that is why: ``DATABASE`` or the name of the external system the reaction calls."""


@dataclass(frozen=True)
class Parked:
    """It is in the dead-letter table, for a person."""

    error: Exception


Outcome = Done | Duplicate | RetryLater | Parked


@dataclass(frozen=True)
class Unhandled:
    """Nothing was changed and nothing is decided: hand it in again. Never the outcome of a delivery on its own."""

    alone: bool
    """On its own, because it failed with others. Otherwise there was no time left to call the external system."""


@dataclass(frozen=True)
class Failed:
    """Nothing was changed, and the error is still to be judged. Never leaves the inbox."""

    error: Exception


def parking_task(service: str) -> str:
    """The task that parks a service's unusable messages."""
    return f"{service}.park_unusable_message"


def reason_of_death(headers: Mapping[str, Any]) -> str:
    """Why the broker dead-lettered a message, as it says: ``rejected``, ``delivery_limit``, ``expired``, ``maxlen``."""
    match headers.get("x-death"):
        case [{"reason": str(reason)}, *_]:
            return reason
        case _:
            return "unknown"


def _read(body: bytes, reaction: Reaction, event_type: str) -> Event[Any]:
    if not is_upcast(reaction.service, event_type):
        return read_event(body, reaction.reads)
    event: Event[Any] = read_event(body, reads(reaction, event_type))
    return event.model_copy(update={"data": lift(reaction, event_type, event.data)})


def _size_of(value: Any) -> int:
    """About how many bytes a header takes in AMQP: eight for a number, and a few for each entry."""
    match value:
        case str():
            return 5 + (len(value) if value.isascii() else len(value.encode(errors="replace")))
        case bytes():
            return 5 + len(value)
        case Mapping():
            return sum(1 + _size_of(key) + _size_of(item) for key, item in value.items())
        case list() | tuple():
            return sum(map(_size_of, value))
    return 9
