"""What a service's own rows say happened, hour by hour, so that it can be compared with the history of the flows.

A service says with ``@accounts_for`` which of its facts can be read off its rows, or off the records of an external
system it uses (see docs/observability.md).

Only the services in ``CHOREOGRAPHY["REPORTS"]`` announce accounts, as ``<service>.hour_accounted.v1``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events.messages import Announced, Moment, published
from choreography.events.registry import service_of


class Happened(NamedTuple):
    """A fact about a subject, as a row has it."""

    subject: UUID
    event: type[Announced]
    fields: Mapping[str, int | str] = {}
    """Fields of the event that the row has as well. Whole numbers are added up."""


#: Gives what happened to the subjects from the first id up to, not including, the second.
Function = Callable[[UUID, UUID], Iterable[Happened]]


@dataclass(frozen=True)
class Record:
    """Where facts of a service can be read: its own tables, or the records of an external system."""

    service: str
    name: str
    covers: frozenset[str]
    """The event types: what is not in the record has not happened."""
    function: Function


class AccountedFact(BaseModel):
    """A fact as a record has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: str = Field(description="the record that has it, such as ledger")
    event_type: str = Field(description="the event that announced it, or should have")
    fields: dict[str, int | str] = Field(default={}, description="fields of the event that the record has as well")


class SubjectAccount(BaseModel):
    """What a service's tables say about one subject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = Field(description="what the facts are about")
    announced: int = Field(ge=0, description="events about it in the outbox")
    handled: int = Field(ge=0, description="deliveries about it that took effect, by the inbox")
    facts: tuple[AccountedFact, ...] = Field(default=(), description="what its records say happened")


_records: list[Record] = []


def records(service: str) -> list[Record]:
    """The records of a service in which facts can be read."""
    return [record for record in _records if record.service == service]


def accounts_for(*events: type[Announced]) -> Callable[[Function], Function]:
    """Read facts of these types with the function below, which is named after the record it reads.

    Raises:
        ContractError: no event is named, one belongs to another service, or there is a record of that name.
    """

    def decorate(function: Function) -> Function:
        service, name = service_of(function), function.__name__
        if not events:
            raise ContractError(f"{service}.{name} accounts for nothing: name the events it covers")
        for event in events:
            if event.service != service:
                raise ContractError(f"{service}.{name} can't account for {event.event_type}, a fact of {event.service}")
        if any(record.name == name for record in records(service)):
            raise ContractError(f"there are two records named {service}.{name}: rename one")
        _records.append(Record(service, name, frozenset(event.event_type for event in events), function))
        return function

    return decorate


def account_type(service: str) -> str:
    """The event type of a service's accounts."""
    return f"{service}.hour_accounted.v1"


def define_accounts() -> None:
    """Add the contract of each service that reports to ``published``. Does nothing the second time."""
    for service in conf().reports:
        if account_type(service) not in published:
            _define(service)


def _define(service: str) -> None:
    class HourAccounted(Announced, type=account_type(service)):
        """What the service's tables say about the subjects of an hour. For the history of flows alone."""

        hour: Moment = Field(description="its beginning; a subject belongs to the hour in which its id was made")
        first: str = Field(description="the subjects it covers: from this one")
        last: str = Field(description="up to, not including, this one")
        at: Moment = Field(description="when the tables were read")
        covers: dict[str, tuple[str, ...]] = Field(description="the event types that each record has")
        subjects: tuple[SubjectAccount, ...] = Field(description="those that the tables have something about")
