"""The embedded broker's messages: what they are, where topics take them, what is noted when they die."""

import base64
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as taken from a queue.

    ``tag`` names this one delivery, ``delivery_count`` is how often it came back before it.
    """

    tag: str
    queue: str
    exchange: str
    routing_key: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    properties: dict[str, Any]
    delivery_count: int

    @property
    def redelivered(self) -> bool:
        return self.delivery_count > 0


def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic binding takes a routing key: ``*`` is one word, ``#`` any number of them."""
    return _topic(pattern).fullmatch(f".{routing_key}" if routing_key else "") is not None


@functools.lru_cache(maxsize=1024)
def _topic(pattern: str) -> re.Pattern[str]:
    """Expects a dot in front of every word."""
    wild = {"*": r"\.[^.]*", "#": r"(\.[^.]*)*"}
    words = pattern.split(".") if pattern else []
    return re.compile("".join(wild.get(word, rf"\.{re.escape(word)}") for word in words))


def with_death(message: Stored, reason: str) -> dict[str, Any]:
    """The headers, with what RabbitMQ notes when it dead-letters. They may hold any rubbish."""
    earlier = message.headers.get("x-death")
    deaths = [d for d in earlier if isinstance(d, dict)] if isinstance(earlier, list) else []
    same = [d for d in deaths if (d.get("queue"), d.get("reason")) == (message.queue, reason)]
    count = same[0].get("count") if same else 0
    death = {
        "queue": message.queue,
        "reason": reason,
        "exchange": message.exchange,
        "routing-keys": [message.routing_key],
        "count": count + 1 if isinstance(count, int) else 1,
    }
    first = {f"x-first-death-{key}": death[key] for key in ("queue", "reason", "exchange")}
    others = [d for d in deaths if d not in same]
    return {**first, **message.headers, "x-death": [death, *others]}


#: What AMQP's tables hold and JSON doesn't.
_TYPES: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "\0bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "\0datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "\0decimal": (Decimal, str, Decimal),
}


def _encoded(value: Any) -> dict[str, str]:
    for mark, (type_, encode, _) in _TYPES.items():
        if isinstance(value, type_):
            return {mark: encode(value)}
    raise TypeError(f"A message can't carry a {type(value).__name__} in its headers or properties.")


def _decoded(value: dict[str, Any]) -> Any:
    for mark, encoded in value.items():
        if mark in _TYPES and len(value) == 1:
            try:
                return _TYPES[mark][2](encoded)
            except (ValueError, TypeError, ArithmeticError):  # it only looks like one of ours
                return value
    return value


#: Headers and properties as text, and back.
dumps = json.JSONEncoder(default=_encoded, separators=(",", ":")).encode
loads = json.JSONDecoder(object_hook=_decoded).decode
