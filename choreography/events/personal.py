"""What of an event may be shown to whom: contracts mark fields as personal, and pages and commands mask those.

What a contract doesn't know is masked too, for nobody has said that it isn't personal: a field that is not in the
contract, a value of another shape, an event without a contract, a message that can't be read.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from django.core.signals import setting_changed

from choreography.events.compatibility import committed
from choreography.events.schemas import Schema, alternatives

#: A path into an event's data: the names of its fields; ``[]`` for each item of an array.
Path = tuple[str, ...]

#: What stands in the place of what may not be seen.
MASK = "***"
#: What JSON Schema calls the types of plain values.
_TYPES = {str: ("string",), bool: ("boolean",), int: ("integer", "number"), float: ("number",)}


def masked(event_type: str, data: Any) -> Any:
    """An event's data with what is personal in it, and what its contract doesn't know, replaced by ``***``."""
    contract = _contract(event_type)
    return _masked(data, [contract], contract) if contract else _mask(data)


def masked_message(event_type: str, body: str) -> str:
    """An event as it was published, in JSON, with its data masked; ``***`` if it can't be read."""
    try:
        event: Any = json.loads(body)
    except (ValueError, RecursionError):
        return MASK
    is_event = isinstance(event, dict) and "data" in event and "data_base64" not in event
    if not is_event or event.get("type", event_type) != event_type:
        return MASK
    data = masked(event_type, event["data"])
    return body if data == event["data"] else json.dumps(event | {"data": data})


@cache
def marked(event_type: str, mark: str) -> tuple[Path, ...]:
    """The fields of an event's data that its contract marks: ``personal`` or ``searchable``."""
    contract = _contract(event_type)
    return tuple(dict.fromkeys(_marked(contract, contract, mark, ()))) if contract else ()


@cache
def _contract(event_type: str) -> Schema | None:
    return committed(event_type)


def _mask(value: Any) -> Any:
    return None if value is None else MASK


def _masked(value: Any, schemas: Sequence[Schema], contract: Schema) -> Any:
    shapes = [shape for schema in schemas for shape in alternatives(schema, contract)]
    if any(shape.get("personal") for shape in shapes):
        return _mask(value)
    if isinstance(value, dict):
        return {
            name: _part(each, [_of_field(shape, name) for shape in shapes], contract) for name, each in value.items()
        }
    if isinstance(value, list):
        return [_part(each, [_of_item(shape, at) for shape in shapes], contract) for at, each in enumerate(value)]
    return value if any(_may_be(value, shape) for shape in shapes) else _mask(value)


def _may_be(value: Any, shape: Schema) -> bool:
    """Whether a plain value is of a type that the contract has there: text where it has a number may be anything."""
    wanted = shape.get("type")
    return not {None, *_TYPES.get(type(value), ())}.isdisjoint(wanted if isinstance(wanted, list) else [wanted])


def _part(value: Any, schemas: list[Any], contract: Schema) -> Any:
    known = [schema for schema in schemas if isinstance(schema, dict)]
    return _masked(value, known, contract) if known else _mask(value)


def _of_field(shape: Schema, name: str) -> Any:
    return shape.get("properties", {}).get(name, shape.get("additionalProperties"))


def _of_item(shape: Schema, at: int) -> Any:
    first = shape.get("prefixItems", [])
    return first[at] if at < len(first) else shape.get("items")


def _marked(schema: Schema, contract: Schema, mark: str, at: Path) -> Iterator[Path]:
    for shape in alternatives(schema, contract):
        if shape.get(mark):
            yield at
            continue
        for name, field in shape.get("properties", {}).items():
            yield from _marked(field, contract, mark, (*at, name))
        items = shape.get("items")
        for item in [items] if isinstance(items, dict) else shape.get("prefixItems", []):
            yield from _marked(item, contract, mark, (*at, "[]"))


def _forget(**_: Any) -> None:
    _contract.cache_clear()
    marked.cache_clear()


# Only tests change settings while running.
setting_changed.connect(_forget)
