"""What an event is: strict where it is announced, forgiving where it is heard."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, ValidationError

from choreography.core.errors import ContractError, Unusable
from choreography.events import messages
from choreography.events.messages import (
    Announced,
    Event,
    Heard,
    Nothing,
    in_structured_mode,
    parse_type,
    read_envelope,
    read_event,
)
from choreography.testing import frozen_clock
from common.money import Amount, Currency

CLOUDEVENT = "application/cloudevents+json"
EVENT_ID = "019b76da-a800-7000-8000-00000000000e"
ORDER = "019b76da-a800-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "published", {})


class Money(Heard):
    amount: Amount
    currency: Currency


def message(**changes: object) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": EVENT_ID,
        "type": "bank.paid.v2",
        "source": "bank",
        "subject": ORDER,
        "time": "2026-01-01T00:00:00Z",
        "data": {"amount": 5, "currency": "KRW"},
    }
    return json.dumps(envelope | changes).encode()


def test_an_announced_event_knows_its_type_and_its_service() -> None:
    class Paid(Announced, type="bank.paid.v2"):
        amount: Amount = Field(description="how much")

    assert (Paid.event_type, Paid.service) == ("bank.paid.v2", "bank")
    assert messages.published == {"bank.paid.v2": Paid}


def test_a_type_is_defined_once() -> None:
    class Paid(Announced, type="bank.paid.v1"): ...

    with pytest.raises(ContractError, match=r"bank\.paid\.v1 is defined twice"):

        class PaidAgain(Announced, type="bank.paid.v1"): ...


def test_an_announced_event_is_strict_and_frozen() -> None:
    class Paid(Announced, type="bank.paid.v1"):
        amount: Amount = Field(description="how much")

    for wrong in ({"amount": "5"}, {"amount": -1}, {"amount": 2**53}, {"amount": 5, "more": 1}, {}):
        with pytest.raises(ValidationError):
            Paid(**wrong)
    with pytest.raises(ValidationError):
        Paid(amount=5).amount = 6  # type: ignore[misc]


def test_a_type_names_its_service_event_and_version() -> None:
    assert parse_type("bank.was_paid.v12") == ("bank", "was_paid", 12)


@pytest.mark.parametrize("wrong", ["bank.paid", "bank.paid.v0", "bank.paid.v1.x", "Bank.paid.v1", "bank.paid.v1\n", ""])
def test_anything_else_is_no_type(wrong: str) -> None:
    with pytest.raises(ContractError):
        parse_type(wrong)


def test_an_event_is_read_as_it_was_written() -> None:
    event = Event[Money](
        id=UUID(EVENT_ID),
        type="bank.paid.v2",
        source="bank",
        subject=ORDER,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        correlationid="flow",
        sequence=3,
        data=Money(amount=5, currency="KRW"),
    )
    assert read_event(event.to_json().encode(), Money) == event
    assert "causationid" not in json.loads(event.to_json()), "what is not known is left out"


@pytest.mark.parametrize("subject", ["x", "invoice 7/2026", "Größe: ½ ☕", "x" * 200, "☕" * 200], ids=len)
def test_a_subject_is_any_text_of_up_to_200_characters(subject: str) -> None:
    assert read_event(message(subject=subject), Money).subject == subject
    assert read_envelope(message(subject=subject), CLOUDEVENT, 2000).subject == subject


@pytest.mark.parametrize("subject", ["", "x" * 201, "order \0"], ids=len)
def test_a_subject_that_can_not_be_stored_is_unusable(subject: str) -> None:
    with pytest.raises(Unusable, match=r"^subject: "):
        read_envelope(message(subject=subject), CLOUDEVENT, 2000)


def test_a_reader_ignores_what_it_does_not_know() -> None:
    event = read_event(message(extra=1, data={"amount": 5, "currency": "KRW", "more": {}}), Money)
    assert event.data == Money(amount=5, currency="KRW")
    assert (event.correlationid, event.causationid, event.sequence) == ("", None, None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": {"amount": "5", "currency": "KRW"}}, "data.amount"),
        ({"data": {"currency": "KRW"}}, "data.amount"),
        ({"data": {"amount": 5, "currency": "won"}}, "data.currency"),
        ({"data": None}, "data"),
        ({"data": "5 KRW"}, "data"),
        ({"id": ""}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"id": 5}, "id"),
        ({"source": None}, "source"),
        ({"source": "b\0nk"}, "source"),
        ({"subject": ""}, "subject"),
        ({"subject": "x" * 201}, "subject"),
        ({"subject": 5}, "subject"),
    ],
)
def test_a_fault_is_named_by_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(Unusable, match=f"^{field}"):
        read_event(message(**changes), Money)


class Note(Heard):
    """Text, wherever there may be any."""

    model_config = ConfigDict(extra="ignore")

    title: str = ""
    lines: tuple[str, ...] = ()
    notes: dict[str, str] = {}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"title": "\0"}, "data.title"),
        ({"lines": ["sound", "a\0b"]}, r"data.lines\.1"),
        ({"notes": {"Ada": "\0"}}, r"data\.notes\.Ada"),
        ({"notes": {"A\0da": "sound"}}, r"data\.notes"),
        ({"notes": {"A\0da": "\0"}}, r"data\.notes: [^\0]*; data\.notes\.Ada"),
    ],
)
def test_a_text_with_nul_can_not_be_stored(data: dict[str, object], field: str) -> None:
    with pytest.raises(Unusable, match=f"^{field}: .*NUL"):
        read_event(message(data=data), Note)


@pytest.mark.parametrize("data", [{"title": r"\u0000"}, {"title": "sound", "other": "\0"}], ids=str)
def test_nul_that_is_none_or_is_not_read_does_no_harm(data: dict[str, str]) -> None:
    assert read_event(message(data=data), Note).data.title == data["title"]


def test_who_reads_anything_reads_nul_as_well() -> None:
    class Anything(Heard):
        model_config = ConfigDict(extra="allow")

    assert read_event(message(data={"title": "\0"}), Anything).data.model_extra == {"title": "\0"}


def test_an_envelope_can_be_read_where_the_rest_is_wrong() -> None:
    envelope = read_envelope(message(data=None), f"{CLOUDEVENT}; charset=utf-8", 1000)
    assert (str(envelope.id), envelope.type, envelope.subject) == (EVENT_ID, "bank.paid.v2", ORDER)


@pytest.mark.parametrize(
    ("body", "content_type", "fault"),
    [
        (b"x" * 1001, CLOUDEVENT, "1001 bytes"),
        (message(), None, "missing"),
        (message(), "application/json", "application/json"),
        (b"", CLOUDEVENT, "body"),
        (b"{", CLOUDEVENT, "body"),
        (message(id=""), CLOUDEVENT, "id"),
        (b"[]", CLOUDEVENT, "body"),
        (b"null", CLOUDEVENT, "body"),
        (message(subject=""), CLOUDEVENT, "subject"),
        (message(subject="x" * 201), CLOUDEVENT, "subject"),
        (message(specversion="2.0"), CLOUDEVENT, "specversion"),
    ],
)
def test_what_is_no_event_is_unusable(body: bytes, content_type: str | None, fault: str) -> None:
    with pytest.raises(Unusable, match=fault):
        read_envelope(body, content_type, 1000)


#: Values that JSON has, of every kind.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
#: Attributes that no reaction needs.
OPTIONAL = [
    "time",
    "datacontenttype",
    "correlationid",
    "causationid",
    "sequence",
    "traceparent",
    "dataschema",
    "tenant",
]


@settings(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(OPTIONAL), ANYTHING))
def test_no_optional_attribute_makes_an_event_unusable(attributes: dict[str, Any]) -> None:
    body = message(**attributes)

    event = read_event(body, Money)

    assert (str(event.id), event.subject, event.data.amount) == (EVENT_ID, ORDER, 5)
    assert read_envelope(body, CLOUDEVENT, 10_000).id == event.id
    read_event(event.to_json().encode(), Money)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"correlationid": None, "causationid": None, "sequence": None}, ("", None, None)),
        ({"sequence": "0000000042", "sequencetype": "Integer"}, ("", None, 42)),
        ({"sequence": 0}, ("", None, None)),
        ({"sequence": "first"}, ("", None, None)),
        ({"causationid": "order 7"}, ("", "order 7", None)),
        ({"causationid": "x" * 201, "correlationid": ["x"]}, ("", None, None)),
    ],
    ids=str,
)
def test_what_others_write_is_read_as_far_as_it_makes_sense(
    written: dict[str, Any], read: tuple[str, str | None, int | None]
) -> None:
    event = read_event(message(**written), Money)

    assert (event.correlationid, event.causationid, event.sequence) == read


@pytest.mark.parametrize("name", ["envelope_charset.json", "envelope_null_attribute.json"])
def test_an_event_of_a_foreign_program_is_read(name: str) -> None:
    body = (Path(__file__).parent / name).read_bytes()

    assert read_event(body, Money).data.amount == 1999
    assert read_envelope(body, CLOUDEVENT, 10_000).subject.startswith("0a1b2c3d-")


BINARY = {"cloudEvents:specversion": "1.0", "cloudEvents:id": EVENT_ID, "cloudEvents:type": "orders.order_placed.v1"}


def test_an_event_in_binary_mode_becomes_one_in_structured_mode() -> None:
    headers = BINARY | {"cloudEvents_subject": ORDER, "cloudEvents:time": datetime(2026, 1, 1, tzinfo=UTC), "mine": 1}
    body, content_type, others = in_structured_mode(b'{"total": 1}', "application/json", headers)
    assert (content_type, others) == (CLOUDEVENT, {"mine": 1})
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": EVENT_ID,
        "type": "orders.order_placed.v1",
        "subject": ORDER,
        "time": "2026-01-01T00:00:00+00:00",
        "datacontenttype": "application/json",
        "data": {"total": 1},
    }


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"no JSON"])
def test_data_that_is_no_json_is_kept(body: bytes) -> None:
    event = json.loads(in_structured_mode(body, "text/plain", BINARY)[0])
    assert base64.b64decode(event.get("data_base64", "")) == body
    assert "data" not in event


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        (CLOUDEVENT, BINARY),
        ("application/json", {"cloudEvents:type": "orders.order_placed.v1"}),
        ("application/json", {}),
        ("application/json", BINARY | {"cloudEvents:odd": "\ud800"}),
    ],
    ids=["structured", "no version", "no event", "not to be written as JSON"],
)
def test_anything_else_stays_as_it_is(content_type: str, headers: dict[str, Any]) -> None:
    assert in_structured_mode(b"{}", content_type, headers) == (b"{}", content_type, headers)


def test_an_event_without_a_time_became_true_when_it_is_read() -> None:
    with frozen_clock() as clock:
        assert read_event(message(time=None), Money).time == clock.now()
        assert read_event(message(time="2026-01-01T00:00:00"), Money).time == clock.now()
        for beyond in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "3000-01-01T00:00:00Z"):
            assert read_event(message(time=beyond), Money).time == clock.now()


@pytest.mark.parametrize("data", [None, "text", [], 5, {"more": 1}], ids=str)
def test_a_reader_of_nothing_needs_no_data(data: object) -> None:
    assert read_event(message(data=data), Nothing).data == Nothing()


@pytest.mark.parametrize("given_id", ["7", "A-234-1234-1234", "urn:uuid:7", "Größe ☕", "x" * 200], ids=len)
def test_an_id_is_any_text(given_id: str) -> None:
    event = read_event(message(id=given_id), Money)

    assert event.given_id == given_id
    assert event.id == read_envelope(message(id=given_id), CLOUDEVENT, 10_000).id
    assert event.id == read_event(message(id=given_id, time=None), Money).id, "it depends on nothing else"


def test_an_id_that_is_no_uuid_is_unique_for_its_source() -> None:
    ours, theirs = read_event(message(id="7"), Money), read_event(message(id="7", source="shop"), Money)

    assert ours.id != theirs.id
    assert read_event(message(), Money).id == UUID(EVENT_ID)
