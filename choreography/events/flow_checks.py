"""What the code itself shows to be wrong with the flows, before anything runs. One line and one remedy each.

An event may follow another if a reaction to it may announce it, or if it is expected after it. Services that run
elsewhere take part with the files they have committed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any

from choreography.events import compatibility
from choreography.events.declarations import Declarations, everything
from choreography.events.messages import family_of, parse_type
from choreography.events.readers import OF_THE_MACHINERY, Reader, all_readers
from choreography.events.registry import reactions

Graph = Mapping[str, frozenset[str]]

#: Last words of the names of events that say that something has gone wrong.
_FAILURES = frozenset({"aborted", "declined", "expired", "failed", "lost", "rejected"})
#: Names as much alike as this are one word spelled in two ways: ``order_cancelled`` and ``order_canceled``.
_ALIKE = 0.93


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong."""

    check: str
    """``cycle``, ``unread``, ``unannounced``, ``uncompensated``, ``endless`` or ``same_meaning``."""
    about: str
    what: str
    remedy: str


def flaws() -> Iterator[Flaw]:
    """All that is wrong with the flows of the services that are known here, check by check."""
    declared, contracts, readers = everything(), compatibility.current(), all_readers()
    yield from _circles()
    yield from _unread(declared, contracts, readers)
    yield from _unannounced(contracts, readers)
    follow = following(declared)
    yield from _uncompensated(declared, contracts, follow)
    yield from _endless(declared, contracts, follow)
    yield from _same_meaning(contracts)


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


def following(declared: Declarations) -> Graph:
    """Which facts may follow each, in whatever version: by all reactions, and by what is expected."""
    follow: dict[str, set[str]] = {}
    for reaction in declared.reactions:
        for event_type in reaction.heard:
            follow.setdefault(family_of(event_type), set()).update(map(family_of, reaction.announces))
    for expectation in declared.expectations:
        follow.setdefault(family_of(expectation.after), set()).update(map(family_of, expectation.one_of))
    return {fact: frozenset(after) for fact, after in follow.items()}


def _circles() -> Iterator[Flaw]:
    for circle in cycles(graph()):
        yield Flaw(
            "cycle",
            " -> ".join((*circle, circle[0])),
            "these reactions may go round for ever",
            "end the circle in a reaction that announces nothing",
        )


def _unread(declared: Declarations, contracts: Mapping[str, Any], readers: Iterable[Reader]) -> Iterator[Flaw]:
    read = {family_of(reader.event_type) for reader in readers if reader.is_subscribed}
    read |= {family_of(event_type) for reaction in declared.reactions for event_type in reaction.heard}
    for event_type in _steps(contracts):
        if family_of(event_type) not in read and declared.end_of(event_type) is None:
            yield Flaw(
                "unread",
                event_type,
                "no service reads it, and it ends no flow",
                "remove it, or say why it is announced: with ends_flow(...), or for_others=True in its class",
            )


def _unannounced(contracts: Mapping[str, Any], readers: Iterable[Reader]) -> Iterator[Flaw]:
    for reader in readers:
        if reader.is_subscribed and reader.event_type not in contracts:
            yield Flaw(
                "unannounced",
                reader.reaction,
                f"it reacts to {reader.event_type}, which nobody announces",
                "check the name and the version, or commit the contract of the service that announces it",
            )


def _uncompensated(declared: Declarations, contracts: Mapping[str, Any], follow: Graph) -> Iterator[Flaw]:
    """What has gone wrong must be taken back, by an event that may follow, or be shown to a person."""
    remedies = {family_of(event_type) for event_type in declared.compensations}
    remedies |= {family_of(end.event_type) for end in declared.ends.values() if end.needs_person}
    for event_type in _steps(contracts):
        fact = family_of(event_type)
        if fact.rpartition("_")[2] in _FAILURES and remedies.isdisjoint(_reachable(fact, follow)):
            yield Flaw(
                "uncompensated",
                event_type,
                "it says that something has gone wrong, and nothing takes back what was done before",
                "react to it with an event that is declared in compensates(...), "
                "or declare it with ends_flow(..., needs_person=True)",
            )


def _endless(declared: Declarations, contracts: Mapping[str, Any], follow: Graph) -> Iterator[Flaw]:
    """From the first event of a flow, what is expected must lead to an end, whichever of the expected events comes."""
    if not declared.ends:
        return
    ends = {family_of(event_type) for event_type in declared.ends}
    # An end has come before: what takes back or gives back what that flow had held.
    ends |= {family_of(each) for each in declared.compensations} & set().union(*(follow.get(end, ()) for end in ends))
    led = {fact for fact in map(family_of, contracts) if fact in ends}
    while (
        more := {
            family_of(each.after)
            for each in declared.expectations
            if {family_of(event_type) for event_type in each.one_of} <= led
        }
        - led
    ):
        led |= more
    followers = set().union(*follow.values())
    for event_type in _steps(contracts):
        fact = family_of(event_type)
        if fact not in followers and fact not in led:
            loose = sorted(each for each in _reachable(fact, follow) if each not in led and not follow.get(each))
            yield Flaw(
                "endless",
                event_type,
                f"a flow that begins with it may never end: nothing is sure to follow {', '.join(loose) or fact}",
                "declare with expect(...) what must follow each step, and the last with ends_flow(...)",
            )


def _same_meaning(contracts: Mapping[str, Any]) -> Iterator[Flaw]:
    """Newest versions alone: versions of one fact do mean the same."""
    by_version = sorted(_steps(contracts), key=lambda event_type: parse_type(event_type).version)
    newest = {family_of(event_type): event_type for event_type in by_version}
    for one, other in combinations(sorted(newest.values()), 2):
        if _meaning(contracts[one]) == _meaning(contracts[other]) != "":
            why = "their descriptions are the same"
        elif _are_alike(parse_type(one).name, parse_type(other).name):
            why = "their names are the same words"
        else:
            continue
        yield Flaw(
            "same_meaning",
            f"{one}, {other}",
            f"{why}: two events of one meaning make readers choose, and some will choose wrong",
            "announce one of them, or name and describe what makes them differ",
        )


def _steps(contracts: Mapping[str, Any]) -> list[str]:
    """The event types that are a step of some flow."""
    return [
        event_type
        for event_type in sorted(contracts)
        if parse_type(event_type).name not in OF_THE_MACHINERY and not contracts[event_type].get("for_others")
    ]


def _reachable(fact: str, follow: Graph) -> set[str]:
    """A fact and all that may come after it."""
    found, waiting = {fact}, [fact]
    while waiting:
        new = follow.get(waiting.pop(), frozenset()) - found
        found |= new
        waiting += new
    return found


def _from(start: str, follow: Graph) -> Iterator[tuple[str, ...]]:
    """The circles through ``start`` in which no other comes before it by name: so none is found twice."""
    paths: list[tuple[str, ...]] = [(start,)]
    while paths:
        path = paths.pop()
        for after in sorted(follow.get(path[-1], ())):
            if after == start:
                yield path
            elif after > start and after not in path:
                paths.append((*path, after))


def _meaning(contract: Mapping[str, Any]) -> str:
    return " ".join(re.findall(r"\w+", str(contract.get("description", "")).lower()))


def _are_alike(one: str, other: str) -> bool:
    """The same words in whatever order, or the same but for a character or two."""
    return sorted(one.split("_")) == sorted(other.split("_")) or SequenceMatcher(None, one, other).ratio() >= _ALIKE
