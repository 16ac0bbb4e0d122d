"""Who reacts to what. ``@reacts_to`` is the only way to subscribe, and stands in a service's ``reactions.py``."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel

from choreography.core.errors import ContractError
from choreography.events.external_systems import Host
from choreography.events.messages import Announced, Data, Event, parse_type

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reaction:
    """One function of one service that reacts to one or more event types."""

    service: str
    """The service that reacts: the package the function lives in."""
    function: Callable[..., None]
    event_types: tuple[str, ...]
    reads: type[BaseModel]
    """The service's own model of the data it reads."""
    announces: frozenset[str]
    """The event types it may announce. The outbox refuses any other."""
    calls: Callable[[Any], Any] | None
    """What it asks of the outside world first, outside the transaction. Its result is the second argument."""
    host: Host[Any] | None = None
    """Whom it asks: while that host is down the worker holds back."""
    grouped: bool = False
    """It is written for many events at once."""

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


def reaction_to(service: str, event_type: str) -> Reaction | None:
    """The reaction of a service to an event type. There is one at most: ``register`` sees to it."""
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


@overload
def reacts_to(
    *event_types: str, announces: Sequence[type[Announced]] = ()
) -> Callable[[Callable[[Event[Data]], None]], Callable[[Event[Data]], None]]: ...


@overload
def reacts_to(
    *event_types: str, announces: Sequence[type[Announced]] = (), grouped: Literal[True]
) -> Callable[[Callable[[Sequence[Event[Data]]], None]], Callable[[Sequence[Event[Data]]], None]]: ...


@overload
def reacts_to(
    *event_types: str,
    announces: Sequence[type[Announced]] = (),
    calls: Callable[[Event[Data]], Answer],
    host: Host[Any] | None = None,
) -> Callable[[Callable[[Event[Data], Answer], None]], Callable[[Event[Data], Answer], None]]: ...


@overload
def reacts_to(
    *event_types: str,
    announces: Sequence[type[Announced]] = (),
    calls: Callable[[Sequence[Event[Data]]], Callable[[Event[Data]], Answer]],
    host: Host[Any] | None = None,
    grouped: Literal[True],
) -> Callable[
    [Callable[[Sequence[Event[Data]], Sequence[Answer]], None]],
    Callable[[Sequence[Event[Data]], Sequence[Answer]], None],
]: ...


def reacts_to(
    *event_types: str,
    announces: Sequence[type[Announced]] = (),
    calls: Callable[[Any], Any] | None = None,
    host: Host[Any] | None = None,
    grouped: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run the function below once for every event of these types.

    The function takes the event, annotated as ``Event[What]`` where ``What`` is the service's own ``Heard`` model,
    and runs inside one transaction on the service's database together with its inbox row and what it announces.
    Events that wait together may share that transaction; if one of them fails, each is handled on its own.

    With ``grouped`` it takes many events at once, ``Sequence[Event[What]]``, no two of them of one subject and sorted
    by subject, so that it can change all their rows with a few statements. One event is a sequence of one.

    Args:
        event_types: ``"orders.order_placed.v1"``, one or more that the same model can read.
        announces: the event classes it may announce; announcing another raises ``ContractError``.
        calls: a function of the event that talks to the outside world. It runs before the transaction, may run
            again, and so must be idempotent; what it returns becomes the reaction's second argument. Of a grouped
            reaction it takes all the events, looks up what it needs for all of them, and returns the function that
            asks for one; the second argument then holds an answer for each event.
        host: whom ``calls`` asks, so that the worker holds back while it is down.
        grouped: the function takes many events at once.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        register(
            Reaction(
                service=function.__module__.partition(".")[0],
                function=function,
                event_types=event_types,
                reads=_model_read_by(function, grouped),
                announces=frozenset(event.event_type for event in announces),
                calls=calls,
                host=host,
                grouped=grouped,
            )
        )
        return function

    return decorate


def _model_read_by(function: Callable[..., None], grouped: bool) -> type[BaseModel]:
    """``def f(event: Event[OrderPlaced])``, or ``def f(events: Sequence[Event[OrderPlaced]])``: ``OrderPlaced``."""
    first = next(iter(inspect.signature(function).parameters), "")
    annotation = get_type_hints(function).get(first)
    if grouped:
        (annotation,) = get_args(annotation) if get_origin(annotation) is Sequence else (None,)
    arguments = getattr(annotation, "__pydantic_generic_metadata__", {}).get("args", ())
    if len(arguments) != 1:
        wanted = "Sequence[Event[<what it reads>]]" if grouped else "Event[<what it reads>]"
        raise ContractError(f"annotate the first parameter of {function.__qualname__} as {wanted}")
    model: type[BaseModel] = arguments[0]
    return model
