"""What journal knows of the other services: their committed contracts and declarations, never their code."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from django.core.signals import setting_changed

from choreography.core.conf import conf
from choreography.core.errors import ContractError
from choreography.events.accounts import account_type
from choreography.events.declarations import Declarations, read_all
from choreography.events.messages import parse_type
from choreography.events.reports import report_type

#: A path into an event's data: the names of its fields; ``[]`` for each item of an array.
Path = tuple[str, ...]

PERSONAL, SEARCHABLE = "personal", "searchable"


@cache
def declarations() -> Declarations:
    """What all services declare, those that run elsewhere included."""
    return read_all()


@cache
def contracts() -> dict[str, dict[str, Any]]:
    """Every committed contract by its event type: JSON Schema."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(conf().contracts_dir.glob("*.json"))}
    return {event_type: schema for event_type, schema in found.items() if _is_event_type(event_type)}


def event_types() -> list[str]:
    """The events that journal keeps: all that have a contract, without its own, reports and accounts."""
    others = {*report_types(), *account_types()}
    return [
        event_type for event_type in contracts() if parse_type(event_type)[0] != "journal" and event_type not in others
    ]


def report_types() -> list[str]:
    """The event types of the reports of all services that have contracts."""
    return [report_type(service) for service in _services() if report_type(service) in contracts()]


def account_types() -> list[str]:
    """The event types of the accounts of all services that have contracts."""
    return [account_type(service) for service in _services() if account_type(service) in contracts()]


def _services() -> list[str]:
    return sorted({parse_type(event_type)[0] for event_type in contracts()} - {"journal"})


def keywords_of(event_type: str, body: str) -> Iterator[tuple[str, bool]]:
    """The words by which an event's flow can be found, and whether each is personal."""
    searchable = paths(event_type, SEARCHABLE)
    if searchable:
        data, personal = json.loads(body), set(paths(event_type, PERSONAL))
        for path in searchable:
            for value in _values_at(data, path):
                if isinstance(value, str) and value.strip():
                    yield value.strip().lower()[:200], path in personal


@cache
def paths(event_type: str, annotation: str) -> tuple[Path, ...]:
    """The fields of an event's data that its contract marks with ``annotation``."""
    schema = contracts().get(event_type, {})
    return tuple(_marked(schema, schema.get("$defs", {}), annotation))


def masked(event_type: str, data: Any) -> Any:
    """An event's data with what is personal in it replaced by ``***``."""
    for path in paths(event_type, PERSONAL):
        data = _with_mask(data, path)
    return data


def _marked(schema: dict[str, Any], definitions: dict[str, Any], annotation: str, at: Path = ()) -> Iterator[Path]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    if schema.get(annotation):
        yield at
        return
    for name, field in schema.get("properties", {}).items():
        yield from _marked(field, definitions, annotation, (*at, name))
    for items in [schema["items"]] if isinstance(schema.get("items"), dict) else schema.get("prefixItems", []):
        yield from _marked(items, definitions, annotation, (*at, "[]"))
    for one in schema.get("anyOf", []):
        yield from _marked(one, definitions, annotation, at)


def _values_at(data: Any, path: Path) -> Iterator[Any]:
    if not path:
        yield data
    elif path[0] == "[]" and isinstance(data, list):
        for item in data:
            yield from _values_at(item, path[1:])
    elif isinstance(data, dict) and path[0] in data:
        yield from _values_at(data[path[0]], path[1:])


def _with_mask(data: Any, path: Path) -> Any:
    if not path:
        return None if data is None else "***"
    if path[0] == "[]" and isinstance(data, list):
        return [_with_mask(item, path[1:]) for item in data]
    if isinstance(data, dict) and path[0] in data:
        return data | {path[0]: _with_mask(data[path[0]], path[1:])}
    return data


def _is_event_type(name: str) -> bool:
    try:
        parse_type(name)
    except ContractError:
        return False
    return True


def _forget(**_: Any) -> None:
    for function in (declarations, contracts, paths):
        function.cache_clear()


# Only tests change settings while running.
setting_changed.connect(_forget)
