"""Who reacts to what. ``@reacts_to`` is the only way to subscribe, and stands in a service's ``reactions.py``."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, get_type_hints

from django.apps import apps
from pydantic import BaseModel

from choreography.core.errors import ContractError
from choreography.events.external_systems import ExternalSystem
from choreography.events.messages import Announced, parse_type

Function = TypeVar("Function", bound=Callable[..., None])


class Rows(Protocol):
    """Where the row of a subject comes from: ``Payment.objects``, if it is made of ``models.SubjectQuerySet``."""

    def locked(self, subjects: Sequence[str]) -> AbstractContextManager[Sequence[Any]]:
        """A row for each subject, locked until the transaction ends. What the block changes is written at its end."""

    def current(self, subjects: Sequence[str]) -> Sequence[Any]:
        """A row for each subject as it is now, not locked."""


@dataclass(frozen=True)
class Reaction:
    """One function of one service that reacts to one or more event types."""

    service: str
    """The label of the Django app the function lives in."""
    function: Callable[..., None]
    """Takes the row of the event's subject (with ``rows``), the event, and the answer (with ``ask``)."""
    event_types: tuple[str, ...]
    reads: type[BaseModel]
    """The service's own model of the data it reads."""
    announces: frozenset[str] = frozenset()
    """The event types it may announce. The outbox refuses any other."""
    rows: Rows | None = None
    prepare: Callable[[Any, Any], None] | None = None
    ask: Callable[..., Any] | None = None
    external_system: ExternalSystem[Any] | None = None
    """What ``ask`` calls: while it is down the worker pauses."""

    @property
    def name(self) -> str:
        """``payments.authorize_payment``: the name in Flower, in the inbox and in the logs."""
        return f"{self.service}.{self.function.__name__}"


_reactions: dict[str, Reaction] = {}
#: The name of a service's reaction to an event type.
_names: dict[tuple[str, str], str] = {}


def reactions(service: str | None = None) -> list[Reaction]:
    """All reactions of this process, or those of one service, in the order they were written."""
    return [reaction for reaction in _reactions.values() if service in (None, reaction.service)]


def readers_of(event_type: str) -> list[Reaction]:
    """The reactions of this process to an event type."""
    return [reaction for reaction in _reactions.values() if event_type in reaction.event_types]


def reaction_to(service: str, event_type: str) -> Reaction | None:
    """The reaction of a service to an event type. There is one at most: ``register`` refuses a second."""
    return _reactions.get(_names.get((service, event_type), ""))


def register(reaction: Reaction) -> None:
    """Add a reaction.

    Raises:
        ContractError: the service already reacts to one of its event types, or has a reaction of that name.
    """
    for event_type in reaction.event_types:
        parse_type(event_type)
        rival = reaction_to(reaction.service, event_type)
        if rival is not None:
            raise ContractError(
                f"{reaction.service} reacts to {event_type} twice, in {rival.name} and {reaction.name}: "
                "one delivery runs one reaction, so make them one function"
            )
    if reaction.name in _reactions:
        raise ContractError(f"there are two reactions named {reaction.name}: rename one")
    _reactions[reaction.name] = reaction
    _names.update({(reaction.service, event_type): reaction.name for event_type in reaction.event_types})


@contextmanager
def overridden(name: str, **changes: Any) -> Iterator[Reaction]:
    """Use a changed copy of the reaction ``name`` for the duration; yields the original. See ``testing.override``.

    Raises:
        KeyError: there is no such reaction.
    """
    original = _reactions[name]
    _reactions[name] = replace(original, **changes)
    try:
        yield original
    finally:
        _reactions[name] = original


def service_of(function: Callable[..., Any]) -> str:
    """The label of the Django app a function lives in; outside of any app the first part of its module's name."""
    app = apps.get_containing_app_config(function.__module__)
    return app.label if app else function.__module__.partition(".")[0]


def reacts_to(
    *event_types: str,
    announces: Sequence[type[Announced]] = (),
    rows: Rows | None = None,
    prepare: Callable[[Any, Any], None] | None = None,
    ask: Callable[..., Any] | None = None,
    external_system: ExternalSystem[Any] | None = None,
) -> Callable[[Function], Function]:
    """Run the function below once for every event of these types.

    The function takes, in this order: the row of the event's subject, if ``rows`` is given; the event, annotated as
    ``Event[What]``, where ``What`` is the service's own ``Heard`` model; and the external system's answer, if ``ask``
    is given. It runs inside one transaction on the service's database, together with the inbox row and what it
    announces. It changes the row and does not save it. Events that wait together may share the transaction; if it
    fails, each event is handled in a transaction of its own.

    Args:
        event_types: ``"orders.order_placed.v1"``, one or more that the same model can read.
        announces: the event classes it may announce; announcing another raises ``ContractError``.
        rows: the rows of the subjects, ``Payment.objects``; loaded, locked and written for all events at once.
        ask: calls the external system, before the transaction, with the row as it is then and the event, or with the
            event alone where there are no ``rows``. It may run again, and so must be idempotent.
        prepare: changes the row before ``ask`` is called, in a transaction of its own.
        external_system: what ``ask`` calls, so that the worker pauses while it is down.

    Raises:
        ContractError: the function's parameters are not those above; or the service reacts to one of these types
            already, or has a reaction of that name.
    """

    def decorate(function: Function) -> Function:
        register(
            Reaction(
                service=service_of(function),
                function=function,
                event_types=event_types,
                reads=_model_read_by(function, ["row"] * (rows is not None), ["answer"] * (ask is not None)),
                announces=frozenset(event.event_type for event in announces),
                rows=rows,
                prepare=prepare,
                ask=ask,
                external_system=external_system,
            )
        )
        return function

    return decorate


def _model_read_by(function: Callable[..., None], before: list[str], after: list[str]) -> type[BaseModel]:
    """``OrderPlaced`` of ``def f(payment, event: Event[OrderPlaced], answer)``, which has so many parameters around."""
    names = list(inspect.signature(function).parameters)
    expected = [*before, "event", *after]
    if len(names) != len(expected):
        raise ContractError(
            f"{function.__qualname__} takes {len(names)} parameters; "
            f"it is called with {len(expected)}: {', '.join(expected)}"
        )
    annotation = get_type_hints(function).get(names[len(before)])
    arguments = getattr(annotation, "__pydantic_generic_metadata__", {}).get("args", ())
    if len(arguments) != 1:
        raise ContractError(
            f"annotate the parameter {names[len(before)]} of {function.__qualname__} as Event[<what it reads>]"
        )
    model: type[BaseModel] = arguments[0]
    return model
