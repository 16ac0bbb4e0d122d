"""Decode whatever an AMQP broker delivers: headers and properties of other programs never end a process.

py-amqp decodes inside the event loop, before any hook, and raises where a timestamp holds milliseconds, a text is not
UTF-8 or tables are nested deeply. RabbitMQ passes all of these on unread. Here what py-amqp can't decode is decoded
tolerantly: a text that is not UTF-8 becomes text with escapes (properties) or bytes (headers), a time out of range a
number, and what is unknown, cut off or nested too deeply the bytes it arrived as.

``bounded`` then gives headers that can be sent again and stored, whoever wrote them.
"""

import struct
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqp import abstract_channel, serialization
from amqp.spec import Basic

#: Tables and arrays inside one another, at most. What is deeper is not decoded.
_DEPTH = 20

#: The properties in the order of their flags, from the highest bit down, with their types in AMQP's letters.
#: https://www.rabbitmq.com/resources/specs/amqp0-9-1.extended.xml (class "basic")
_PROPERTIES = (
    ("content_type", "s"),
    ("content_encoding", "s"),
    ("application_headers", "F"),
    ("delivery_mode", "o"),
    ("priority", "o"),
    ("correlation_id", "s"),
    ("reply_to", "s"),
    ("expiration", "s"),
    ("message_id", "s"),
    ("timestamp", "L"),
    ("type", "s"),
    ("user_id", "s"),
    ("app_id", "s"),
    ("cluster_id", "s"),
)
#: Formats of the numbers in a table. https://www.rabbitmq.com/docs/amqp-0-9-1-errata
_NUMBERS = {
    "b": ">b",
    "B": ">B",
    "U": ">h",
    "s": ">h",
    "u": ">H",
    "I": ">i",
    "i": ">I",
    "L": ">q",
    "l": ">q",
    "f": ">f",
    "d": ">d",
}


def install() -> None:
    """Make every AMQP connection of this process decode tolerantly. Safe to repeat."""
    patched: Any = serialization.PROPERTY_CLASSES  # the stubs have its type wrong
    patched[Basic.CLASS_ID] = decode_properties
    setattr(abstract_channel, "loads", decode_arguments)  # noqa: B010 (the stubs say that it is there for good)


def decode_properties(buffer: bytes, offset: int) -> tuple[dict[str, Any], int]:
    """The properties of a message, for ``amqp.serialization.PROPERTY_CLASSES``. Never raises."""
    try:
        return _decode_properties(buffer, offset)
    except Exception:  # whatever it is: the event loop must not end for it
        return _Reader(buffer, offset).properties(), len(buffer)


def decode_arguments(format: str, buffer: bytes, offset: int) -> tuple[list[Any], int]:
    """The arguments of a method, for ``amqp.abstract_channel``. Only texts are decoded tolerantly: a routing key."""
    try:
        return _decode_arguments(format, buffer, offset)
    except UnicodeDecodeError:
        reader = _Reader(buffer, offset)
        return reader.arguments(format), reader.offset


_decode_properties = serialization.decode_properties_basic
_decode_arguments = serialization.loads


class _Reader:
    """Reads AMQP's encoding from a buffer, whatever it holds."""

    def __init__(self, buffer: bytes, offset: int) -> None:
        self.buffer = bytes(buffer)
        self.offset = offset

    def properties(self) -> dict[str, Any]:
        """As many properties as there are, up to one that is cut off."""
        properties: dict[str, Any] = {}
        with suppress(struct.error):
            flags = self._number(">H")
            for position, (name, kind) in enumerate(_PROPERTIES):
                if flags & (0x8000 >> position):
                    properties[name] = self._value(kind)
        return properties

    def arguments(self, format: str) -> list[Any]:
        """Arguments of a method that has texts, numbers and bits."""
        values: list[Any] = []
        bits: list[bool] = []
        for kind in format:
            if kind != "b":
                bits = []
                values.append(self._value(kind))
                continue
            if not bits:
                octet = self._number(">B")
                bits = [bool(octet >> number & 1) for number in range(8)]
            values.append(bits.pop(0))
        return values

    def _value(self, kind: str) -> Any:
        match kind:
            case "s":
                return self._take(self._number(">B")).decode(errors="backslashreplace")
            case "F":
                return self._table(self._number(">I"), depth=1)
            case "o":
                return self._number(">B")
            case "B":
                return self._number(">H")
            case "l":
                return self._number(">I")
            case "L":
                return self._number(">Q")
        raise serialization.FrameSyntaxError(f"no argument of a method is of type {kind!r}")

    def _table(self, length: int, depth: int) -> dict[str, Any]:
        end = min(self.offset + length, len(self.buffer))
        table: dict[str, Any] = {}
        while self.offset < end:
            key = self._take(self._number(">B")).decode(errors="backslashreplace")
            table[key] = self._item(end, depth)
        return table

    def _array(self, length: int, depth: int) -> list[Any]:
        end = min(self.offset + length, len(self.buffer))
        array = []
        while self.offset < end:
            array.append(self._item(end, depth))
        return array

    def _item(self, end: int, depth: int) -> Any:
        """One value of a table or an array that ends at ``end``; where it can't be told, the bytes up to there."""
        start = self.offset
        try:
            return self._typed(chr(self._number(">B")), depth)
        except (struct.error, LookupError):
            self.offset = end
            return self.buffer[start:end]

    def _typed(self, kind: str, depth: int) -> Any:
        match kind:
            case "S":
                return _text(self._take(self._number(">I")))
            case "x":
                return self._take(self._number(">I"))
            case "F" | "A" if depth >= _DEPTH:
                return self._take(self._number(">I"))
            case "F":
                return self._table(self._number(">I"), depth + 1)
            case "A":
                return self._array(self._number(">I"), depth + 1)
            case "t":
                return bool(self._number(">B"))
            case "V":
                return None
            case "T":
                return _time(self._number(">Q"))
            case "D":
                scale, digits = self._number(">B"), self._number(">i")
                return Decimal(digits).scaleb(-scale)
        return self._number(_NUMBERS[kind])

    def _number(self, format: str) -> Any:
        (value,) = struct.unpack_from(format, self.buffer, self.offset)
        self.offset += struct.calcsize(format)
        return value

    def _take(self, length: int) -> bytes:
        start, self.offset = self.offset, min(self.offset + length, len(self.buffer))
        return self.buffer[start : self.offset]


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _time(seconds: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return seconds


def bounded(headers: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Headers that can be sent again: keys are text, numbers fit into 64 bits, and nesting has a limit."""
    return {} if not headers else {_key(key): _bounded(value, 1) for key, value in headers.items()}


def _bounded(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): _bounded(each, depth + 1) for key, each in value.items()} if depth < _DEPTH else _TOO_DEEP
    if isinstance(value, list | tuple):
        return [_bounded(each, depth + 1) for each in value] if depth < _DEPTH else _TOO_DEEP
    if isinstance(value, bool | str | bytes | float | None):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, datetime):
        return value if value.year >= 1970 else str(value)  # AMQP's times are not negative
    return str(value)


def _key(key: Any) -> str:
    """At most 255 bytes, as AMQP has it."""
    text = key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
    return text.encode(errors="surrogatepass")[:255].decode(errors="backslashreplace")[:255]


_TOO_DEEP = f"(nested more than {_DEPTH} deep)"
