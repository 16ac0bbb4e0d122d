"""Versions of one fact side by side: what a publisher still announces for old readers, and how a reader reads old ones.

A publisher that has a new version goes on announcing the one before, made of the new one by a function with
``@downcasts``. Announcing the new one writes both, in the same transaction. Both are the same fact: the older has the
id of the newer in its attribute ``factid``, and who hears both reacts once.

A reader reads the newest version with its ``Heard`` model, and says by functions with ``@upcasts`` how an older one
becomes the next. Such functions are pure, and make a chain over several versions (see docs/contracts.md).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, get_type_hints

from pydantic import BaseModel

from choreography.core.errors import ContractError
from choreography.events.messages import Announced, family_of, parse_type
from choreography.events.registry import Reaction, reaction_to, reactions, service_of

Function = TypeVar("Function", bound=Callable[[Any], Any])


class Downcast(NamedTuple):
    """How a publisher makes an older version."""

    to: type[Announced]
    function: Callable[[Any], Any]


class Upcast(NamedTuple):
    """How a reader makes the next version of an older one."""

    service: str
    event_type: str
    reads: type[BaseModel]
    gives: type[BaseModel]
    function: Callable[[Any], Any]

    @property
    def name(self) -> str:
        return f"{self.service}.{self.function.__name__}"


_downcasts: dict[type[Announced], Downcast] = {}
_upcasts: dict[tuple[str, str], Upcast] = {}


def downcasts(function: Function) -> Function:
    """Also announce the version that this function makes, whenever the version that it takes is announced.

    Raises:
        ContractError: it is not annotated with two versions of one event, the older one returned; or the newer has such
            a function already.
    """
    newer, older = _annotations(function)
    if not (isinstance(newer, type) and issubclass(newer, Announced)) or not issubclass(older, Announced):
        raise ContractError(f"annotate {function.__qualname__} with the event class it takes and the older it returns")
    if (
        family_of(newer.event_type) != family_of(older.event_type)
        or parse_type(older.event_type).version >= parse_type(newer.event_type).version
    ):
        raise ContractError(f"{function.__qualname__} must make an older version of {newer.event_type}")
    if newer in _downcasts:
        raise ContractError(
            f"{newer.event_type} is downcast twice: by {_downcasts[newer].function.__qualname__} and "
            f"{function.__qualname__}. Make a chain instead: each version makes the one before."
        )
    _downcasts[newer] = Downcast(older, function)
    return function


def older_versions(fact: Announced) -> Iterator[Announced]:
    """The same fact in every older version that is still announced, the newest first."""
    while (downcast := _downcasts.get(type(fact))) is not None:
        fact = downcast.function(fact)
        yield fact


def upcasts(event_type: str) -> Callable[[Function], Function]:
    """Read events of this older version with the function below: it makes of them what the next version is read as.

    The service accepts the older version from then on. It subscribes to it only if a reaction names it as well.

    Raises:
        ContractError: the event type is none, the function is not annotated with the model it takes and the model it
            returns, or the service has one for this version.
    """
    parse_type(event_type)

    def decorate(function: Function) -> Function:
        service = service_of(function)
        reads, gives = _annotations(function)
        if (service, event_type) in _upcasts:
            raise ContractError(f"{service} reads {event_type} in two ways: keep one function")
        _upcasts[service, event_type] = Upcast(service, event_type, reads, gives, function)
        return function

    return decorate


def is_upcast(service: str, event_type: str) -> bool:
    """Whether a service reads this version by making the next of it."""
    return (service, event_type) in _upcasts


def upcasts_of(service: str) -> list[Upcast]:
    """All of a service, by event type."""
    return sorted((each for each in _upcasts.values() if each.service == service), key=lambda each: each.event_type)


def reaction_of(service: str, event_type: str) -> Reaction | None:
    """The reaction of a service to an event type, or to the version that an older one is read as."""
    reaction = reaction_to(service, event_type)
    if reaction is not None or (service, event_type) not in _upcasts:
        return reaction
    newer = [each for each in reactions(service) if any(_is_newer(other, event_type) for other in each.event_types)]
    return newer[0] if newer else None


def chain(reaction: Reaction, event_type: str) -> list[Upcast]:
    """The functions through which an event of this type goes before the reaction reads it, in their order.

    Raises:
        ContractError: there is a gap between them, or before what the reaction reads.
    """
    found: list[Upcast] = []
    family = family_of(event_type)
    newest = max((parse_type(other).version for other in reaction.event_types if family_of(other) == family), default=0)
    for version in range(parse_type(event_type).version, newest):
        upcast = _upcasts.get((reaction.service, f"{family}.v{version}"))
        if upcast is not None:
            found.append(upcast)
    if not found:
        return []
    for upcast, following in zip(found, [*(each.reads for each in found[1:]), reaction.reads], strict=True):
        if upcast.gives is not following:
            raise ContractError(
                f"{upcast.name} makes {upcast.gives.__name__} of {upcast.event_type}, and what is read next is "
                f"{following.__name__}: a version between them has no function with @upcasts"
            )
    return found


def reads(reaction: Reaction, event_type: str) -> type[BaseModel]:
    """The reader's model of an event type: of the older version, if it is upcast."""
    functions = chain(reaction, event_type)
    return functions[0].reads if functions else reaction.reads


def lift(reaction: Reaction, event_type: str, data: BaseModel) -> BaseModel:
    """Data as the reaction reads it, made of data read as ``reads`` says."""
    for upcast in chain(reaction, event_type):
        data = upcast.function(data)
    return data


def faults() -> Iterator[str]:
    """What is wrong with the upcasts of this process, each as one line that says what to do."""
    for (service, event_type), upcast in sorted(_upcasts.items()):
        reaction = reaction_of(service, event_type)
        if reaction is None:
            yield f"{upcast.name} reads {event_type}, and no reaction of {service} reads a newer version: delete it"
            continue
        try:
            chain(reaction, event_type)
        except ContractError as error:
            yield str(error)
    for reaction in reactions():
        for event_type in reaction.event_types:
            others = [other for other in reactions(reaction.service) if other is not reaction]
            if any(family_of(event_type) == family_of(it) for other in others for it in other.event_types):
                yield (
                    f"{reaction.name} and another reaction of {reaction.service} hear versions of "
                    f"{family_of(event_type)}, and would both react to one fact: make them one, with @upcasts"
                )


def _annotations(function: Callable[..., Any]) -> tuple[Any, Any]:
    hints = get_type_hints(function)
    returned = hints.pop("return", None)
    if len(hints) != 1 or returned is None:
        raise ContractError(f"annotate {function.__qualname__} with the one version it takes and the one it returns")
    return next(iter(hints.values())), returned


def _is_newer(event_type: str, than: str) -> bool:
    return family_of(event_type) == family_of(than) and parse_type(event_type).version > parse_type(than).version
