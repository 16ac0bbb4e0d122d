"""What must follow an event, what ends a flow, and what excludes what: declared by each service beside its reactions.

The declarations are exported with the contracts (``declarations``). Whoever keeps the history of flows checks them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from choreography.core.errors import ContractError
from choreography.events.messages import Announced, parse_type

EventType = str | type[Announced]


@dataclass(frozen=True)
class Expectation:
    """After an event, one of others must be announced in the same flow within a time."""

    service: str
    """Which service must announce it."""
    after: str
    one_of: tuple[str, ...]
    within: timedelta


@dataclass(frozen=True)
class End:
    """An event after which a flow has ended, once nothing of it is pending."""

    event_type: str
    needs_person: bool
    """A person must do something about it."""


@dataclass(frozen=True)
class Exclusion:
    """Two events that can't both be in one flow."""

    one: str
    other: str


_expectations: list[Expectation] = []
_ends: dict[str, End] = {}
_exclusions: list[Exclusion] = []
_compensations: set[str] = set()


def expectations() -> list[Expectation]:
    """All that were declared in this process."""
    return [*_expectations]


def ends() -> list[End]:
    """All ends of flows that were declared in this process."""
    return [*_ends.values()]


def exclusions() -> list[Exclusion]:
    """All pairs of events that can't both be in one flow."""
    return [*_exclusions]


def compensations() -> set[str]:
    """The event types that were declared as compensation."""
    return {*_compensations}


def expect(after: EventType, *, one_of: Sequence[EventType], within: timedelta | float) -> None:
    """Declare what must follow: ``expect("orders.order_placed.v1", one_of=[Authorized, Declined], within=60)``.

    An event of ``one_of`` that was announced earlier in the flow counts as well.

    Args:
        after: what makes the service act.
        one_of: what may follow. The first is a fact of the service that declares it.
        within: seconds, or a timedelta: from when ``after`` was announced.

    Raises:
        ContractError: ``one_of`` is empty, an event type is none, or the same was declared before.
    """
    if not one_of:
        raise ContractError(f"nothing is expected after {_type(after)}: name one event at least")
    types = tuple(_type(each) for each in one_of)
    seconds = within if isinstance(within, timedelta) else timedelta(seconds=within)
    expectation = Expectation(parse_type(types[0]).service, _type(after), types, seconds)
    if expectation in _expectations:
        raise ContractError(f"the same is expected twice after {expectation.after}")
    _expectations.append(expectation)


def ends_flow(event_type: EventType, *, needs_person: bool = False) -> None:
    """Declare that a flow has ended with this event, once nothing of it is pending.

    Raises:
        ContractError: it was declared before.
    """
    end = End(_type(event_type), needs_person)
    if end.event_type in _ends:
        raise ContractError(f"{end.event_type} is declared as an end twice")
    _ends[end.event_type] = end


def never_both(one: EventType, other: EventType) -> None:
    """Declare that no flow can have both events.

    Raises:
        ContractError: an event type is none.
    """
    _exclusions.append(Exclusion(_type(one), _type(other)))


def compensates(*events: EventType) -> None:
    """Declare that these events take something back that was done before: pages show them in a style of their own.

    Raises:
        ContractError: an event type is none.
    """
    _compensations.update(_type(event) for event in events)


def _type(event: EventType) -> str:
    event_type = event if isinstance(event, str) else event.event_type
    parse_type(event_type)
    return event_type
