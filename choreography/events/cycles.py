"""Circles among events: a reaction to one announces another, and so on, back to the first."""

from collections.abc import Iterator, Mapping

from choreography.events.registry import reactions

Graph = Mapping[str, frozenset[str]]


def graph() -> Graph:
    """Which event types may follow each, by the reactions of this process."""
    follow: dict[str, set[str]] = {}
    for reaction in reactions():
        for event_type in reaction.event_types:
            follow.setdefault(event_type, set()).update(reaction.announces)
    return {event_type: frozenset(following) for event_type, following in follow.items()}


def cycles(follow: Graph) -> list[tuple[str, ...]]:
    """Each circle once, from the first of its event types by name."""
    found = {circle for start in sorted(follow) for circle in _from(start, follow)}
    return sorted(found)


def _from(start: str, follow: Graph) -> Iterator[tuple[str, ...]]:
    """The circles through ``start`` in which no other comes before it by name: so none is found twice."""
    paths: list[tuple[str, ...]] = [(start,)]
    while paths:
        path = paths.pop()
        for following in sorted(follow.get(path[-1], ())):
            if following == start:
                yield path
            elif following > start and following not in path:
                paths.append((*path, following))
