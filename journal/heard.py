"""What journal reads of the events it hears."""

from pydantic import ConfigDict

from choreography import Heard, Moment


class Anything(Heard):
    """The data of any event, as it was published."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class DeliveryReport(Heard):
    """What became of one delivery. ``flow`` is empty if it could not be read."""

    event_id: str | None
    event_type: str
    flow: str
    reaction: str
    outcome: str
    attempt: int
    error: str = ""
    dead_letter: str | None = None
    published_at: Moment | None = None
    received_at: Moment | None = None
    started_at: Moment | None = None
    ended_at: Moment
    next_at: Moment | None = None
    who: str = ""


class Status(Heard):
    """How a service was doing when its relay looked."""

    at: Moment
    outbox: int
    oldest: Moment | None
    refused: int
    retries: int
    parked: int


class PauseReport(Heard):
    """A worker of a service takes nothing because something is down; or it goes on."""

    dependency: str
    error: str = ""
    since: Moment
    at: Moment
    is_over: bool


class AccountedFact(Heard):
    """What a record has: that an event was, or should have been, announced."""

    record: str
    event_type: str
    fields: dict[str, int | str] = {}


class SubjectAccount(Heard):
    """What a service's tables say about one subject."""

    subject: str
    announced: int
    handled: int
    facts: tuple[AccountedFact, ...] = ()


class Account(Heard):
    """What a service's tables say about the subjects of an hour, ``first`` to ``last``."""

    hour: Moment
    first: str
    last: str
    at: Moment
    covers: dict[str, tuple[str, ...]]
    subjects: tuple[SubjectAccount, ...]


class Reports(Heard):
    deliveries: tuple[DeliveryReport, ...]
    status: Status | None = None
    pauses: tuple[PauseReport, ...] = ()
