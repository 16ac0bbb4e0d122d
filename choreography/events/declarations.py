"""What each service that reports declares, as a file beside its contracts, for a process that has not got its code.

``contracts/services/payments.json`` has the reactions (what each hears, what it may announce), what must follow an
event, what ends a flow and what excludes what.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from choreography.core.conf import conf
from choreography.events.expectations import (
    End,
    Exclusion,
    Expectation,
    compensations,
    ends,
    exclusions,
    expectations,
)
from choreography.events.messages import family_of, parse_type
from choreography.events.registry import reactions


class DeclaredReaction(NamedTuple):
    """A reaction of a service, whose code may be elsewhere."""

    name: str
    service: str
    heard: frozenset[str]
    announces: frozenset[str]
    calls: str
    """The external system it calls; empty if none."""

    def hears(self, event_type: str) -> bool:
        """Whether it reacts to a fact, in whatever version."""
        return family_of(event_type) in map(family_of, self.heard)

    def may_announce(self, event_type: str) -> bool:
        """Whether it may announce a fact, in whatever version."""
        return family_of(event_type) in map(family_of, self.announces)


class Declarations(NamedTuple):
    """What all services have declared."""

    services: tuple[str, ...]
    reactions: tuple[DeclaredReaction, ...]
    expectations: tuple[Expectation, ...]
    ends: Mapping[str, End]
    exclusions: tuple[Exclusion, ...]
    compensations: frozenset[str]

    def end_of(self, event_type: str) -> End | None:
        """The end that a fact is, in whatever version."""
        family = family_of(event_type)
        return next((end for end in self.ends.values() if family_of(end.event_type) == family), None)

    def is_compensation(self, event_type: str) -> bool:
        """Whether a fact takes something back, in whatever version."""
        return family_of(event_type) in map(family_of, self.compensations)


def declared_by(service: str) -> dict[str, Any]:
    """What a service of this process declares, as its file has it."""
    return {
        "service": service,
        "reactions": {
            reaction.name: {
                "heard": sorted(reaction.event_types),
                "announces": sorted(reaction.announces),
                "calls": reaction.external_system.name if reaction.external_system else "",
            }
            for reaction in sorted(reactions(service), key=lambda reaction: reaction.name)
        },
        "expectations": [
            {"after": each.after, "one_of": [*each.one_of], "within": each.within.total_seconds()}
            for each in expectations()
            if each.service == service
        ],
        "ends": {
            end.event_type: {"needs_person": end.needs_person}
            for end in ends()
            if parse_type(end.event_type).service == service
        },
        "never_both": [[each.one, each.other] for each in exclusions() if parse_type(each.one).service == service],
        "compensations": sorted(each for each in compensations() if parse_type(each).service == service),
    }


def read_all() -> Declarations:
    """What the files say that were committed, of services in this process and elsewhere."""
    return _together([json.loads(path.read_text()) for path in sorted(_folder().glob("*.json"))])


def everything() -> Declarations:
    """What the services of this process declare in their code, and others in the files they have committed."""
    here = conf().services
    elsewhere = [json.loads(path.read_text()) for path in sorted(_folder().glob("*.json")) if path.stem not in here]
    return _together([*map(declared_by, here), *elsewhere])


def _together(files: Sequence[dict[str, Any]]) -> Declarations:
    return Declarations(
        services=tuple(each["service"] for each in files),
        reactions=tuple(
            DeclaredReaction(name, each["service"], frozenset(it["heard"]), frozenset(it["announces"]), it["calls"])
            for each in files
            for name, it in each["reactions"].items()
        ),
        expectations=tuple(
            Expectation(each["service"], it["after"], tuple(it["one_of"]), timedelta(seconds=it["within"]))
            for each in files
            for it in each["expectations"]
        ),
        ends={
            event_type: End(event_type, it["needs_person"]) for each in files for event_type, it in each["ends"].items()
        },
        exclusions=tuple(Exclusion(one, other) for each in files for one, other in each["never_both"]),
        compensations=frozenset(event_type for each in files for event_type in each["compensations"]),
    )


def faults() -> Iterator[str]:
    """Files that are missing or out of date, each as one line that says what to do."""
    for service in conf().reports:
        path = _path(service)
        if not path.exists() or json.loads(path.read_text()) != declared_by(service):
            yield (
                f"what {service} declares is not what {path.parent.name}/{path.name} says: "
                "run manage.py choreography contracts --write"
            )


def write() -> list[Path]:
    """Write the file of each service of this process that reports. Returns those that changed."""
    changed = []
    for service in conf().reports:
        path, text = _path(service), json.dumps(declared_by(service), indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed


def _folder() -> Path:
    return conf().contracts_dir / "services"


def _path(service: str) -> Path:
    return _folder() / f"{service}.json"
