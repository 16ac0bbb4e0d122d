"""What CloudEvents 1.0.2 says a receiver must take, as a table: its core, JSON format, JSON batch format, AMQP binding.

https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents, and the binding for RabbitMQ that SDKs have.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from choreography.core.errors import Unusable
from choreography.events.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE, Heard, in_structured_mode
from choreography.events.registry import Reaction
from choreography.inbox.deliveries import Delivery
from choreography.testing import override
from choreography.worker.batched_messages import events_of

ID, SUBJECT = "0197a0b2-5001-7a00-8000-000000000001", "0197a0b2-4c1e-7d3a-9f21-6b0c5e8d7a10"
TYPE = "payments.payment_captured.v1"


class Anything(Heard):
    """What the reader of this table reads: nothing that it must have."""

    amount: int


def event(**changes: Any) -> dict[str, Any]:
    """A sound event, but for the changes; ``...`` leaves an attribute out."""
    sound = {"specversion": "1.0", "id": ID, "type": TYPE, "source": "/bank", "subject": SUBJECT} | {
        "time": "2026-06-24T14:00:00Z",
        "data": {"amount": 5},
    }
    return {name: value for name, value in (sound | changes).items() if value is not ...}


@dataclass(frozen=True)
class Message:
    body: bytes
    content_type: str | None = CONTENT_TYPE
    headers: dict[str, Any] = field(default_factory=dict)
    delivery_info: dict[str, Any] = field(default_factory=dict)


def structured(content_type: str = CONTENT_TYPE, headers: dict[str, Any] | None = None, **changes: Any) -> Message:
    return Message(json.dumps(event(**changes)).encode(), content_type, headers or {})


def binary(
    prefix: str = "cloudEvents:",
    body: bytes = b'{"amount": 5}',
    content_type: str | None = "application/json",
    **more: Any,
) -> Message:
    attributes = {name: value for name, value in event(**more).items() if name != "data"}
    return Message(body, content_type, {prefix + name: value for name, value in attributes.items()})


def batched(*events: Any, content_type: str = BATCH_CONTENT_TYPE) -> Message:
    return Message(json.dumps(events).encode(), content_type)


def read(message: Message) -> list[Delivery]:
    return [
        Delivery("orders", *in_structured_mode(each.body, each.content_type, each.headers))
        for each in events_of(message)
    ]


#: Where the specification says it, a message, and attributes as they are read.
READ: list[tuple[str, Message, dict[str, Any]]] = [
    # Core
    ("core: required attributes alone", structured(time=...), {"source": "/bank"}),
    ("core: an id is any text", structured(id="A234-1234-1234"), {"given_id": "A234-1234-1234"}),
    ("core: a source is a URI reference", structured(source="urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"), {}),
    ("core: a source is an address", structured(source="mailto:cncf-wg-serverless@lists.cncf.io"), {}),
    ("core: dataschema is passed over", structured(dataschema="https://example.org/schema/1"), {}),
    ("core: extensions are passed over", structured(comexampleextension1="value", comexampleothervalue=5), {}),
    ("core: a time with an offset", structured(time="2026-06-24T16:00:00+02:00"), {"hour": 14}),
    ("core: a time with nanoseconds", structured(time="2026-06-24T14:00:00.123456789Z"), {"hour": 14}),
    ("core: events of 64 KiB", structured(note="x" * 64_000), {}),
    ("core: the distributed tracing extension", structured(traceparent="00-ab-cd-01"), {"traceparent": "00-ab-cd-01"}),
    ("core: the sequence extension", structured(sequence="0000000017"), {"sequence": 17}),
    # JSON event format
    ("json 2.2: a null attribute is absent", structured(dataschema=None, datacontenttype=None), {}),
    ("json 2.2: a boolean extension", structured(sampled=True), {}),
    ("json 2.2: an integer extension", structured(sampledrate=30), {}),
    ("json 3.1: no datacontenttype is JSON", structured(datacontenttype=...), {}),
    ("json 3.1: a JSON media type", structured(datacontenttype="application/json"), {}),
    ("json 3.1: with a parameter", structured(datacontenttype="application/json; charset=utf-8"), {}),
    ("json 3.1: in capitals", structured(datacontenttype="Application/JSON"), {}),
    ("json 3.1: text/json", structured(datacontenttype="text/json"), {}),
    ("json 3.1: a suffix +json", structured(datacontenttype="application/vnd.bank.capture+json"), {}),
    ("json 3.2: members in any order", Message(json.dumps(dict(reversed(event().items()))).encode()), {}),
    # JSON batch format
    ("json 4: a batch of one", batched(event()), {}),
    ("json 4.1: with a charset", batched(event(), content_type=f"{BATCH_CONTENT_TYPE}; charset=utf-8"), {}),
    # AMQP binding
    ("amqp 1.3: structured mode", structured(), {}),
    ("amqp 3.2.1: with a charset", structured(f"{CONTENT_TYPE}; charset=UTF-8"), {}),
    ("amqp 3.2.1: in capitals", structured("Application/CloudEvents+JSON"), {}),
    ("amqp 3.2.3: headers that repeat the attributes", structured(headers={"cloudEvents:id": "another"}), {}),
    ("amqp 3.1: binary mode", binary(), {}),
    ("amqp 3.1: binary mode with an underscore", binary("cloudEvents_"), {}),
    ("amqp 3.1.1: a content type with a parameter", binary(content_type="application/json; charset=utf-8"), {}),
    ("amqp 3.1.1: no content type", binary(content_type=None), {}),
    ("amqp 3.1.3: an extension", binary(sequence=3), {"sequence": 3}),
    ("amqp 3.1.3: an extension as text", binary(sequence="3"), {"sequence": 3}),
    ("amqp 3.1.3: a boolean", binary(sampled=True), {}),
    ("amqp 3.1.3: a time as text", binary(time="2026-06-24T14:00:00Z"), {"hour": 14}),
    ("amqp 3.1.3: a time of AMQP 0-9-1", binary(time=datetime(2026, 6, 24, 14)), {"hour": 14}),
    ("amqp 3.1.3: a time of AMQP 1.0", binary(time=1_782_309_600_000), {"hour": 14}),
    # RabbitMQ binding
    ("rabbitmq: binary mode", binary("ce-"), {}),
    ("rabbitmq: header names in capitals", binary("CE-"), {}),
    ("rabbitmq: a time as text", binary("ce-", time="2026-06-24T14:00:00Z"), {"hour": 14}),
]

#: Where the specification says it or leaves it to the receiver, a message, and the reason for which it is parked.
PARKED: list[tuple[str, Message, str]] = [
    ("core: no specversion", structured(specversion=...), "specversion: Field required"),
    ("core: another specversion", structured(specversion="0.3"), r"specversion: Input should be '1\.0'"),
    ("core: no id", structured(id=...), "id: "),
    ("core: an empty id", structured(id=""), "id: "),
    ("core: no source", structured(source=...), "source: "),
    ("core: an empty source", structured(source=""), "source: "),
    ("core: no type", structured(type=...), "type: "),
    (
        "core: a type that nobody reads",
        structured(type="com.example.someevent"),
        "orders has no reaction to com.example",
    ),
    ("core: no subject, which a flow needs", structured(subject=...), "subject: "),
    ("json 2.2: a required attribute that is null", structured(source=None), "source: "),
    ("json 2.2: an attribute of another type", structured(type=5), "type: "),
    ("json 3.1: no data", structured(data=...), "data: "),
    ("json 3.1: binary data", structured(data=..., data_base64="AAEC"), r"data: it is binary \(data_base64\)"),
    (
        "json 3.1: binary data of another type",
        structured(data=..., data_base64="iVBORw0KGgo=", datacontenttype="image/png"),
        "data: datacontenttype is 'image/png', and only JSON is read",
    ),
    (
        "json 3.1: data that is XML as text",
        structured(data="<much wow='xml'/>", datacontenttype="application/xml"),
        "data: datacontenttype is 'application/xml', and only JSON is read",
    ),
    ("json 3.1: a datacontenttype that is none", structured(data=1, datacontenttype=7), "data: datacontenttype is '7'"),
    ("json: no JSON", Message(b"{"), "Invalid JSON"),
    ("json: no object", Message(b"[]"), "body: "),
    ("json 4: a batch that is no array", Message(b"{}", BATCH_CONTENT_TYPE), "the batch is no JSON array of events"),
    ("json 4: a batch that is cut off", Message(b"[{}", BATCH_CONTENT_TYPE), "the batch is no JSON array of events"),
    ("json 4: a batch with a comma too much", Message(b"[{},]", BATCH_CONTENT_TYPE), "the batch is no JSON array"),
    ("json 4: a batch with more behind it", Message(b"[{}] 1", BATCH_CONTENT_TYPE), "the batch is no JSON array"),
    ("json 4: a batch of empty text", Message(b"", BATCH_CONTENT_TYPE), "the batch is no JSON array"),
    ("json 4: a batch that is not UTF-8", Message(b"[\xff]", BATCH_CONTENT_TYPE), "the batch is no JSON array"),
    ("json 4: a batch nested deeply", Message(b"[" * 100_000, BATCH_CONTENT_TYPE), "the batch is no JSON array"),
    ("json 4: too large a batch", Message(b"[" + b"1," * 10_000 + b"1]", BATCH_CONTENT_TYPE), "has 10001 events"),
    ("amqp 2: another event format", structured("application/cloudevents+avro"), "the content type is"),
    ("amqp 1.3: no event at all", Message(b"hello", "text/plain"), "the content type is 'text/plain'"),
    ("amqp 3.1: an attribute lacks", binary(source=...), "source: "),
    ("amqp 3.1.2: data that is XML", binary(body=b"<a/>", content_type="text/xml"), "datacontenttype is 'text/xml'"),
    ("amqp 3.1.2: data that is no JSON", binary(body=b"\xff"), r"data: it is binary \(data_base64\)"),
    ("amqp 3.1.2: no data", binary(body=b""), "data: "),
]


@pytest.fixture(autouse=True)
def _reads_an_amount() -> Any:
    with override("orders.record_capture", reads=Anything) as reaction:
        assert isinstance(reaction, Reaction)
        yield


@pytest.mark.parametrize(("message", "attributes"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_it_is_read(message: Message, attributes: dict[str, Any]) -> None:
    [delivery] = read(message)
    found = delivery.event
    expected = {"type": TYPE, "subject": SUBJECT} | attributes
    hour = expected.pop("hour", None)

    assert {name: getattr(found, name) for name in expected} == expected
    assert hour is None or found.time.astimezone(UTC).replace(microsecond=0) == datetime(2026, 6, 24, hour, tzinfo=UTC)
    assert found.data.amount == 5


@pytest.mark.parametrize(("message", "reason"), [row[1:] for row in PARKED], ids=[row[0] for row in PARKED])
def test_it_is_parked_with_the_reason(message: Message, reason: str) -> None:
    [delivery] = read(message)

    with pytest.raises(Unusable, match=reason):
        _ = delivery.event


def test_a_batch_holds_any_number_of_events_of_any_types() -> None:
    other = event(type="shipping.shipment_delivered.v1", id="2", data={"parcel": "P"})

    assert [each.envelope.type for each in read(batched(event(), other))] == [TYPE, "shipping.shipment_delivered.v1"]
    assert read(batched()) == []
    assert read(Message(b" [ ] ", BATCH_CONTENT_TYPE)) == []


def test_events_of_a_batch_stay_as_they_were_written() -> None:
    as_written = [b'{"n": 1.10, "big": 123456789012345678901234567890, "e": 1E400}', b'"a \\u0041 ] , text"', b"null"]
    message = Message(b"[ " + b" ,\n\t".join(as_written) + b"\r\n]", BATCH_CONTENT_TYPE)

    assert [each.body for each in events_of(message)] == as_written


def test_one_event_of_a_batch_that_is_wrong_spoils_no_other() -> None:
    wrong, right = read(batched(5, event()))

    with pytest.raises(Unusable):
        _ = wrong.envelope
    assert right.event.data.amount == 5
