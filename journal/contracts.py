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
from choreography.events.personal import Path, marked
from choreography.events.reports import report_type


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
    others |= {event_type for event_type in contracts() if parse_type(event_type).service == "journal"}
    return [event_type for event_type in contracts() if event_type not in others]


def report_types() -> list[str]:
    """The event types of the reports of all services that have contracts."""
    return [report_type(service) for service in _services() if report_type(service) in contracts()]


def account_types() -> list[str]:
    """The event types of the accounts of all services that have contracts."""
    return [account_type(service) for service in _services() if account_type(service) in contracts()]


def _services() -> list[str]:
    return sorted({parse_type(event_type).service for event_type in contracts()} - {"journal"})


def keywords_of(event_type: str, body: str) -> Iterator[tuple[str, bool]]:
    """The words by which an event's flow can be found, and whether each is personal."""
    searchable = marked(event_type, "searchable")
    if searchable:
        data, personal = json.loads(body), set(marked(event_type, "personal"))
        for path in searchable:
            for value in _values_at(data, path):
                # PostgreSQL can't store NUL in text, and nobody can type it.
                word = value.replace("\0", "").strip().lower()[:200] if isinstance(value, str) else ""
                if word:
                    yield word, path in personal


def _values_at(data: Any, path: Path) -> Iterator[Any]:
    if not path:
        yield data
    elif path[0] == "[]" and isinstance(data, list):
        for item in data:
            yield from _values_at(item, path[1:])
    elif isinstance(data, dict) and path[0] in data:
        yield from _values_at(data[path[0]], path[1:])


def _is_event_type(name: str) -> bool:
    try:
        parse_type(name)
    except ContractError:
        return False
    return True


def _forget(**_: Any) -> None:
    declarations.cache_clear()
    contracts.cache_clear()


# Only tests change settings while running.
setting_changed.connect(_forget)
