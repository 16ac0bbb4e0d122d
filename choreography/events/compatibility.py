"""The contract gate: committed JSON Schemas against the publishers' code, and the publishers against their readers.

Two questions. Has a published version changed shape? And does every event give each of its readers what that
reader reads? Readers of other repositories are held against it by the files they have committed (``readers``).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from choreography.core.conf import conf
from choreography.events import declarations, examples, readers
from choreography.events.changes import satisfies, unmet
from choreography.events.messages import Announced, parse_type, published
from choreography.events.readers import Reader, all_readers


def schema_of(event: type[Announced]) -> dict[str, Any]:
    """An event's data as JSON Schema (draft 2020-12), open: readers must expect optional fields to be added."""
    opened: dict[str, Any] = _open(event.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | opened


def faults(sources: Sequence[str] = ()) -> Iterator[str]:
    """Everything that is wrong, each as one line that says what to do.

    Args:
        sources: more readers, as ``readers.all_readers`` takes them.

    Raises:
        ContractError: a source can't be read.
    """
    known = all_readers(sources)
    for event_type, event in sorted(published.items()):
        contract = committed(event_type)
        if contract is None:
            yield f"{event_type} has no committed contract: run manage.py choreography contracts --write"
        elif not satisfies(schema_of(event), contract):
            yield (
                f"{event_type} has changed shape since it was published: announce a new version beside it "
                "(an optional field may be added)"
            )
        elif schema_of(event) != contract:
            yield f"the committed contract of {event_type} is out of date: run manage.py choreography contracts --write"
        yield from (f"{event_type} breaks {fault}" for fault in broken_readers(event, known))
    for path in sorted(conf().contracts_dir.glob("*.json")):
        service = path.name.partition(".")[0]
        if path.stem not in published and service in conf().services:
            yield f"{path.stem} was published and is gone from the code: {_who(path.stem, known)}"
    for reader in known:
        announcer = parse_type(reader.event_type).service
        is_known = reader.event_type in published or committed(reader.event_type) is not None
        if reader.is_subscribed and announcer in conf().services and not is_known:
            yield f"{reader.reaction} reads {reader.event_type}, which nobody announces: check its name and version"
    yield from declarations.faults()
    yield from readers.faults()
    yield from examples.faults({name: committed(name) or contract for name, contract in current().items()}, known)


def current() -> dict[str, dict[str, Any]]:
    """Every contract as it is now: of services in this process by their code, of others as they are committed."""
    here = {event_type: schema_of(event) for event_type, event in published.items()}
    committed_there = {
        path.stem: json.loads(path.read_text())
        for path in sorted(conf().contracts_dir.glob("*.json"))
        if path.name.partition(".")[0] not in conf().services
    }
    return committed_there | here


def broken_readers(event: type[Announced], known: Sequence[Reader] | None = None) -> Iterator[str]:
    """Readers that an event does not give what they read: ``payments.authorize_payment: total``.

    Args:
        known: the readers there are; by default those of this process and those that have committed a file.
    """
    for reader in all_readers() if known is None else known:
        if reader.event_type == event.event_type:
            missing = unmet(reader.schema, schema_of(event))
            if missing:
                yield f"{reader.reaction}: {', '.join(missing)}"


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
    here = {event_type: schema_of(event) for event_type, event in sorted(published.items())}
    return changed + declarations.write() + readers.write() + examples.write(here)


def _open(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _open(value) for key, value in schema.items() if (key, value) != ("additionalProperties", False)}
    return [_open(item) for item in schema] if isinstance(schema, list) else schema


def committed(event_type: str) -> dict[str, Any] | None:
    """The contract of an event type as it was published, of whatever service; ``None`` if there is no file of it.

    The type may be any text, as foreign messages have it: only files of the folder itself are read.
    """
    path = _path(event_type)
    return json.loads(path.read_text()) if path in conf().contracts_dir.glob("*.json") else None


def _path(event_type: str) -> Path:
    return conf().contracts_dir / f"{event_type}.json"


def _who(event_type: str, known: Sequence[Reader]) -> str:
    names = ", ".join(reader.reaction for reader in known if reader.event_type == event_type and reader.is_subscribed)
    return f"it is still read by {names}" if names else "remove its file if no reader anywhere needs it"
