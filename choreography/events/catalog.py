"""All events as people read about them: what each says, who reads which field of it, and what must follow."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from choreography.events import compatibility
from choreography.events.declarations import Declarations, everything
from choreography.events.examples import Example, examples
from choreography.events.messages import family_of, parse_type
from choreography.events.readers import OF_THE_MACHINERY, Reader, all_readers
from choreography.events.schemas import ContractField, fields_of

#: The largest integer that every reader of JSON can hold (RFC 8259, section 6). As a limit it says nothing to people.
_ANY_INTEGER = 2**53 - 1
_UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True)
class CatalogField:
    """A field of an event."""

    path: str
    """``lines[].sku``."""
    type: str
    """``integer``, ``string``, ``list``, or the values that are possible."""
    limits: str
    """``from 0 to 100``, ``like ^[A-Z]{3}$``; empty if there are none."""
    unit: str
    description: str
    is_required: bool
    is_personal: bool
    readers: tuple[str, ...]
    """The reactions that read it."""


@dataclass(frozen=True)
class Expected:
    """What must follow an event."""

    service: str
    one_of: tuple[str, ...]
    within: timedelta

    @property
    def within_words(self) -> str:
        """``45 seconds``, ``14 days``."""
        seconds = round(self.within.total_seconds())
        size, unit = next(each for each in _UNITS if seconds % each[0] == 0)
        return f"{seconds // size} {unit}"


@dataclass(frozen=True)
class Note:
    """What the changelog says of an event."""

    release: str
    text: str


@dataclass(frozen=True)
class CatalogEvent:
    """An event, with all that is known of it."""

    event_type: str
    service: str
    """Who announces it."""
    description: str
    fields: tuple[CatalogField, ...]
    examples: tuple[Example, ...]
    readers: tuple[str, ...]
    """The reactions that hear it."""
    older_readers: tuple[str, ...]
    """The reactions that read what is left of it, and hear a newer version."""
    expected: tuple[Expected, ...]
    follows: tuple[str, ...]
    """The events after which it is one of those that are expected."""
    marks: tuple[str, ...]
    """``ends the flow``, ``needs a person``, ``takes something back``, ``for others`` or ``of the machinery``."""
    versions: tuple[str, ...]
    """All versions that are announced, the newest first."""
    history: tuple[Note, ...]

    @property
    def is_newest(self) -> bool:
        return self.event_type == self.versions[0]

    def matches(self, words: str) -> bool:
        """Whether each of the words is in its name or description, in a field, or in the name of who reads it."""
        about = [self.event_type, self.service, self.description, *self.readers, *self.older_readers, *self.marks]
        about += [f"{field.path} {field.description}" for field in self.fields]
        text = " ".join(about).lower()
        return all(word in text for word in words.lower().split())


def catalog(changelog: Path | None = None) -> list[CatalogEvent]:
    """Every event that has a contract, by its type; the machinery's own come last.

    Args:
        changelog: a file with a heading ``### Event contracts`` for each release that changed any.
    """
    contracts, readers, declared = compatibility.current(), all_readers(), everything()
    notes = [*_notes(changelog.read_text())] if changelog and changelog.exists() else []
    found = [_event(event_type, contracts, readers, declared, notes) for event_type in contracts]
    return sorted(found, key=lambda each: (parse_type(each.event_type).name in OF_THE_MACHINERY, each.event_type))


def _event(
    event_type: str,
    contracts: Mapping[str, Any],
    readers: Sequence[Reader],
    declared: Declarations,
    notes: Iterable[Note],
) -> CatalogEvent:
    contract = contracts[event_type]
    own = [reader for reader in readers if reader.event_type == event_type]
    family = family_of(event_type)
    versions = [each for each in contracts if family_of(each) == family]
    versions.sort(key=lambda each: parse_type(each).version, reverse=True)
    return CatalogEvent(
        event_type=event_type,
        service=parse_type(event_type).service,
        description=str(contract.get("description", "")),
        fields=tuple(_fields(contract, own)),
        examples=tuple(examples(event_type)),
        readers=tuple(sorted({reader.reaction for reader in own if reader.is_subscribed})),
        older_readers=tuple(sorted({reader.reaction for reader in own if not reader.is_subscribed})),
        expected=tuple(
            Expected(each.service, each.one_of, each.within)
            for each in declared.expectations
            if family_of(each.after) == family
        ),
        follows=tuple(each.after for each in declared.expectations if family in map(family_of, each.one_of)),
        marks=tuple(_marks(event_type, contract, declared)),
        versions=tuple(versions),
        history=tuple(note for note in notes if _is_about(note.text, event_type)),
    )


def _marks(event_type: str, contract: Mapping[str, Any], declared: Declarations) -> Iterator[str]:
    end = declared.end_of(event_type)
    if end is not None:
        yield "ends the flow"
    if end is not None and end.needs_person:
        yield "needs a person"
    if declared.is_compensation(event_type):
        yield "takes something back"
    if contract.get("for_others"):
        yield "for others"
    if parse_type(event_type).name in OF_THE_MACHINERY:
        yield "of the machinery"


def _fields(contract: Mapping[str, Any], readers: Sequence[Reader]) -> Iterator[CatalogField]:
    read_by = {reader.reaction: {path for path, _ in fields_of(reader.schema, reader.schema)} for reader in readers}
    for path, field in fields_of(contract, contract):
        if path.endswith("[]") and "properties" in field.schema:
            continue  # what is in it comes next
        yield CatalogField(
            path=path,
            type=_type(field),
            limits=_limits(field.schema),
            unit=str(field.schema.get("unit", "")),
            description=str(field.schema.get("description", "")),
            is_required=field.required and not field.nullable,
            is_personal=bool(field.schema.get("personal")),
            readers=tuple(sorted(name for name, paths in read_by.items() if path in paths)),
        )


def _type(field: ContractField) -> str:
    schema = field.schema
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "format" in schema:
        return str(schema["format"])
    return {"array": "list", "object": "object"}.get(str(schema.get("type")), str(schema.get("type", "any")))


def _limits(schema: Mapping[str, Any]) -> str:
    limits = []
    if "minimum" in schema:
        limits.append(f"from {schema['minimum']}")
    if schema.get("maximum", _ANY_INTEGER) < _ANY_INTEGER:
        limits.append(f"to {schema['maximum']}")
    if "minItems" in schema or "minLength" in schema:
        limits.append(f"at least {schema.get('minItems', schema.get('minLength'))}")
    if "maxItems" in schema or "maxLength" in schema:
        limits.append(f"at most {schema.get('maxItems', schema.get('maxLength'))}")
    if "pattern" in schema:
        limits.append(f"like {schema['pattern']}")
    return " ".join(limits)


def _notes(changelog: str) -> Iterator[Note]:
    """Each point under a heading ``### Event contracts``, with the release it is of."""
    for release in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        name = release.partition("\n")[0].strip()
        for section in re.findall(r"^### Event contracts\n(.*?)(?=^### |\Z)", release, re.MULTILINE | re.DOTALL):
            for point in re.findall(r"^- (.*?)(?=^- |^\S|^\n|\Z)", section, re.MULTILINE | re.DOTALL):
                yield Note(name, " ".join(point.split()))


def _is_about(text: str, event_type: str) -> bool:
    """It names ``orders.order_placed.v1``, ``<service>.hour_accounted.v1``, or ``order_placed`` behind ``orders:``."""
    service, name, version = parse_type(event_type)
    if f"`{event_type}`" in text or f"`<service>.{name}.v{version}`" in text:
        return True
    return version == 1 and text.startswith(f"`{service}`:") and f"`{name}`" in text
