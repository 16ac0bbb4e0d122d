"""Whatever bytes a foreign program puts into properties and headers, py-amqp's decoding ends in values."""

import pickle
import struct
from datetime import datetime
from typing import Any

import pytest
from amqp import serialization
from hypothesis import given
from hypothesis import strategies as st

from choreography.broker.decoding import bounded, decode_arguments, decode_properties, install

HEADERS = 0x2000


def field(kind: bytes, payload: bytes) -> bytes:
    return kind + payload


def long(kind: bytes, payload: bytes) -> bytes:
    """A field whose length comes first."""
    return kind + struct.pack(">I", len(payload)) + payload


def nested(times: int, kind: bytes = b"A") -> bytes:
    value = b"V"
    for _ in range(times):
        value = long(kind, value if kind == b"A" else b"\x01k" + value)
    return value


def table(*fields: tuple[bytes, bytes]) -> bytes:
    body = b"".join(struct.pack("B", len(key)) + key + value for key, value in fields)
    return struct.pack(">I", len(body)) + body


def properties_of(*fields: tuple[bytes, bytes]) -> dict[str, Any]:
    properties, _ = decode_properties(struct.pack(">H", HEADERS) + table(*fields), 0)
    headers: dict[str, Any] = properties["application_headers"]
    return headers


ODD = {
    "a time in milliseconds": (field(b"T", struct.pack(">Q", 1_700_000_000_000)), 1_700_000_000_000),
    "the largest time": (field(b"T", b"\xff" * 8), 2**64 - 1),
    "a text that is not UTF-8": (long(b"S", b"\xff\xfe"), b"\xff\xfe"),
    "a decimal of the largest scale": (field(b"D", b"\xff\x00\x00\x00\x01"), None),
    "an unknown type": (field(b"?", b"\x00"), b"?\x00"),
    "a text that is cut off": (field(b"S", b"\x00\x00\xff\xffabc"), "abc"),
    "a number that is cut off": (field(b"I", b"\x00"), b"I\x00"),
    "a table in which a field is cut off": (long(b"F", b"\x01kI\x00"), {"k": b"I\x00"}),
}


@pytest.mark.parametrize(("value", "expected"), ODD.values(), ids=ODD.keys())
def test_an_odd_header_becomes_bytes_or_a_number(value: bytes, expected: Any) -> None:
    found = properties_of((b"before", field(b"t", b"\x01")), (b"odd", value))

    assert found["before"] is True
    assert expected is None or found["odd"] == expected


def test_an_odd_header_does_not_change_those_around_it() -> None:
    found = properties_of(
        (b"when", field(b"T", struct.pack(">Q", 1_700_000_000))),
        (b"odd", field(b"T", struct.pack(">Q", 1_700_000_000_000))),
        (b"count", field(b"l", struct.pack(">q", -5))),
        (b"\xff\xfe", field(b"d", struct.pack(">d", 0.5))),
        (b"list", long(b"A", field(b"t", b"\x00") + long(b"S", b"text"))),
    )

    assert found == {
        "when": datetime(2023, 11, 14, 22, 13, 20),
        "odd": 1_700_000_000_000,
        "count": -5,
        "\\xff\\xfe": 0.5,
        "list": [False, "text"],
    }


@pytest.mark.parametrize("kind", [b"A", b"F"])
@pytest.mark.parametrize("times", [1, 50, 900, 3000, 20_000])
def test_what_is_nested_deeply_can_be_stored_and_sent(times: int, kind: bytes) -> None:
    headers = bounded(properties_of((b"deep", nested(times, kind))))

    assert pickle.loads(pickle.dumps(headers)) == headers
    serialization.dumps("F", (headers,))


@pytest.mark.parametrize(
    ("flag", "name"),
    [(0x8000, "content_type"), (0x4000, "content_encoding"), (0x0400, "correlation_id"), (0x0008, "app_id")],
)
def test_a_property_that_is_not_utf_8_becomes_text_with_escapes(flag: int, name: str) -> None:
    buffer = struct.pack(">H", flag | 0x0004) + b"\x03K\xfcc" + b"\x02ok"

    assert decode_properties(buffer, 0)[0] == {name: "K\\xfcc", "cluster_id": "ok"}


def test_a_routing_key_that_is_not_utf_8_becomes_text_with_escapes() -> None:
    # basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key
    frame = b"\x01c" + struct.pack(">Q", 7) + b"\x01" + b"\x01e" + b"\x02\xff\xfe"

    assert decode_arguments("sLbss", frame, 0) == (["c", 7, True, "e", "\\xff\\xfe"], len(frame))


def test_what_py_amqp_can_decode_is_decoded_as_it_does() -> None:
    headers = {"text": "é", "number": 2**40, "list": [1, None, {"deep": True}], "float": 1.5}
    buffer = struct.pack(">H", HEADERS) + serialization.dumps("F", (headers,))

    assert decode_properties(buffer, 0)[0] == serialization.decode_properties_basic(buffer, 0)[0]


def test_every_connection_of_the_process_decodes_so() -> None:
    install()

    assert serialization.PROPERTY_CLASSES[60] is decode_properties


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(buffer: bytes) -> None:
    properties, _ = decode_properties(struct.pack(">H", 0xFFFC) + buffer, 0)

    headers = bounded(properties.get("application_headers"))
    serialization.dumps("F", (headers,))
    pickle.dumps(headers)


SCALARS = [st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.datetimes(), st.decimals()]
VALUES = st.recursive(
    st.one_of(*SCALARS),
    lambda children: st.one_of(st.lists(children), st.dictionaries(st.text(), children)),
    max_leaves=10,
)


@given(st.dictionaries(st.one_of(st.text(), st.binary()), VALUES, max_size=5))
def test_whatever_headers_hold_they_can_be_sent_again(headers: dict[Any, Any]) -> None:
    serialization.dumps("F", (bounded(headers),))
