"""What older releases did, made of today's code."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from choreography import Announced, announce
from choreography.events import registry, versions
from choreography.events.messages import published

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"


def know_version_1_alone(labels: Collection[str]) -> None:
    """For good, in this process."""
    if "orders" in labels:
        announce_version_1()
        del published[V2]
    for label in labels:
        reaction = registry.reaction_to(label, V2)
        if reaction is not None and (label, V1) in versions._upcasts:
            read_version_1(reaction)


def announce_version_1() -> None:
    """Orders announces version 1, and has never heard of a newer one."""
    from orders import services  # a process of another service lacks it
    from orders.events import OrderPlacedV2

    downcast = versions._downcasts.pop(OrderPlacedV2)

    def announce_older(fact: Announced, *, subject: UUID) -> Any:
        return announce(downcast.function(fact) if isinstance(fact, OrderPlacedV2) else fact, subject=subject)

    setattr(services, "announce", announce_older)  # noqa: B010 (a name that it imports)


def read_version_1(reaction: registry.Reaction) -> None:
    """The reaction hears version 1 and reads it with a model of its own; version 2 is unknown to its service."""
    upcast = versions._upcasts.pop((reaction.service, V1))

    def lifted(row: Any, event: Any, *answer: Any) -> None:
        reaction.function(row, event.model_copy(update={"data": upcast.function(event.data)}), *answer)

    def ask(row: Any, event: Any) -> Any:
        assert reaction.ask is not None
        return reaction.ask(row, event.model_copy(update={"data": upcast.function(event.data)}))

    lifted.__name__ = reaction.function.__name__
    older = replace(
        reaction, reads=upcast.reads, event_types=(V1,), function=lifted, ask=ask if reaction.ask is not None else None
    )
    registry._reactions[reaction.name] = older
    del registry._names[reaction.service, V2]
    registry._names[reaction.service, V1] = reaction.name


def hear_both_versions(labels: Iterable[str]) -> None:
    """Readers of version 2 that hear version 1 as well, which they still lift."""
    for label in labels:
        reaction = registry.reaction_to(label, V2)
        if reaction is not None and (label, V1) in versions._upcasts:
            registry._reactions[reaction.name] = replace(reaction, event_types=(V2, V1))
            registry._names[label, V1] = reaction.name
