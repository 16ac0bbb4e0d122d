"""The contract gate: committed JSON Schemas against the publishers' code, and the publishers against their readers.

Two questions. Has a published version changed shape? And does every event give each of its readers what that
reader reads? A reader of another repository can be held against the committed schemas in the same way.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsoncompat
from pydantic import BaseModel

from choreography.core.conf import conf
from choreography.events import declarations
from choreography.events.messages import Announced, published
from choreography.events.registry import Reaction, reactions


def schema_of(event: type[Announced]) -> dict[str, Any]:
    """An event's data as JSON Schema (draft 2020-12), open: readers must expect optional fields to be added."""
    opened: dict[str, Any] = _open(event.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | opened


def faults() -> Iterator[str]:
    """Everything that is wrong, each as one line that says what to do."""
    for event_type, event in sorted(published.items()):
        contract = committed(event_type)
        if contract is None:
            yield f"{event_type} has no committed contract: run manage.py choreography contracts --write"
        elif not _can_stand_in(schema_of(event), contract):
            yield (
                f"{event_type} has changed shape since it was published: announce a new version beside it "
                "(an optional field may be added)"
            )
        elif schema_of(event) != contract:
            yield f"the committed contract of {event_type} is out of date: run manage.py choreography contracts --write"
        yield from (f"{event_type} breaks {fault}" for fault in broken_readers(event))
    for path in sorted(conf().contracts_dir.glob("*.json")):
        service = path.name.partition(".")[0]
        if path.stem not in published and service in conf().services:
            yield f"{path.stem} was published and is gone from the code: {_who(readers_of(path.stem))}"
    yield from declarations.faults()


def broken_readers(event: type[Announced]) -> Iterator[str]:
    """Readers that an event does not give what they read: ``payments.authorize_payment: total``."""
    for reaction in readers_of(event.event_type):
        unmet = list(_unmet(reaction.reads, event))
        if unmet:
            yield f"{reaction.name}: {', '.join(unmet)}"


def readers_of(event_type: str) -> list[Reaction]:
    """The reactions of this process to an event type."""
    return [reaction for reaction in reactions() if event_type in reaction.event_types]


def write() -> list[Path]:
    """Write every contract to its file. Returns the files that changed."""
    changed = []
    conf().contracts_dir.mkdir(exist_ok=True)
    for event_type, event in sorted(published.items()):
        path = _path(event_type)
        text = json.dumps(schema_of(event), indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed + declarations.write()


def _unmet(reads: type[BaseModel], event: type[Announced]) -> Iterator[str]:
    """The top-level fields of a reader's model that the event's schema does not guarantee."""
    wanted, given = reads.model_json_schema(), schema_of(event)
    for name, field in wanted.get("properties", {}).items():
        required = [name] if name in wanted.get("required", ()) else []
        one = {"type": "object", "properties": {name: field}, "required": required, "$defs": wanted.get("$defs", {})}
        if not _can_stand_in(given, one):
            yield name


def _can_stand_in(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Is every document of ``new`` one of ``old`` as well?"""
    return jsoncompat.check_compat(json.dumps(old), json.dumps(new), "serializer")


def _open(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _open(value) for key, value in schema.items() if (key, value) != ("additionalProperties", False)}
    return [_open(item) for item in schema] if isinstance(schema, list) else schema


def committed(event_type: str) -> dict[str, Any] | None:
    """The contract of an event type as it was published, of whatever service; ``None`` if there is no file of it."""
    path = _path(event_type)
    return json.loads(path.read_text()) if path.exists() else None


def _path(event_type: str) -> Path:
    return conf().contracts_dir / f"{event_type}.json"


def _who(readers: list[Reaction]) -> str:
    names = ", ".join(reaction.name for reaction in readers)
    return f"{names} still read it" if names else "remove its file if no reader anywhere needs it"
