"""Rubbish arrives from the broker: it is kept where a person can see it, and the next message is handled."""

import json
import math
from typing import Any
from uuid import uuid4

import pytest
from pytest_django.fixtures import Settings

from choreography.inbox.deliveries import ATTEMPTS, DEAD_LETTER, FIRST_SEEN, WAITS, Done, Duplicate, Parked
from orders.models import Order
from payments.models import Inbox as PaymentsInbox
from payments.models import Outbox as PaymentsOutbox
from payments.models import Payment
from tests.shop_in_a_box import Shop, assert_invariants

CLOUDEVENT = "application/cloudevents+json"


def event(**changes: Any) -> bytes:
    """A sound ``orders.order_placed.v2`` for payments, but for the changes; ``...`` leaves a field out."""
    envelope = {
        "specversion": "1.0",
        "id": str(uuid4()),
        "type": "orders.order_placed.v2",
        "source": "orders",
        "subject": str(uuid4()),
        "time": "2026-01-01T00:00:00Z",
        "data": {"payment_token": "tok_approved", "total": 2500, "currency": "EUR"},
    } | changes
    return json.dumps({key: value for key, value in envelope.items() if value is not ...}).encode()


def data(**changes: Any) -> bytes:
    sound = {"payment_token": "tok_approved", "total": 2500, "currency": "EUR"}
    return event(data={key: value for key, value in (sound | changes).items() if value is not ...})


UNUSABLE = {
    "an empty body": b"",
    "not JSON": b"hello",
    "not UTF-8": b"\xff\xfe\x00",
    "half a JSON": event()[:-10],
    "JSON too deep": b"[" * 5000,
    "a list": b"[1, 2]",
    "null": b"null",
    "no CloudEvent": b'{"order": 1}',
    "another version of CloudEvents": event(specversion="0.3"),
    "no id": event(id=...),
    "an id that is no text": event(id=1),
    "an id that is too long": event(id="x" * 201),
    "no type": event(type=...),
    "a type that is no text": event(type=7),
    "no subject": event(subject=...),
    "no source": event(source=...),
    "an empty source": event(source=""),
    "no data": event(data=...),
    "data that is no object": event(data="text"),
    "a missing field": data(total=...),
    "a field of another type": data(total="2500"),
    "an amount with decimals": data(total=25.5),
    "a negative amount": data(total=-1),
    "an amount no database can hold": data(total=10**30),
    "no currency": data(currency="euros"),
    "an unknown type": event(type="orders.order_painted.v1"),
    "a type another service hears": event(type="payments.payment_captured.v1"),
    "a version nobody reads": event(type="orders.order_placed.v9"),
    "no event type at all": event(type="Order Placed!"),
    "a type no database can hold": event(type="a\0b"),
    "a very long type": event(type="x" * 5000),
}


def test_a_text_that_does_not_fit_the_table_is_named(shop: Shop) -> None:
    ship_to = {"street": "Main Street 1", "city": "Bonn", "postal_code": "53111", "country": "Germany"}
    customer = {"name": {"full": "x" * 121}}

    shop.send("shipping", event(data={"customer": customer, "ship_to": ship_to}))
    shop.drain()

    [dead_letter] = shop.dead_letters("shipping")
    assert (dead_letter.error, dead_letter.attempts) == ("Unusable", 1)
    assert "data.customer.name.full: String should have at most 120 characters" in dead_letter.message
    assert "data.ship_to.country" in dead_letter.message


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_message_is_parked_whole_and_the_next_one_is_handled(shop: Shop, name: str) -> None:
    shop.send("payments", UNUSABLE[name])
    order = shop.place()
    shop.settle_at_once()

    first = next(step for step in shop.steps if step.service == "payments")
    assert isinstance(first.outcome, Parked)
    [dead_letter] = shop.dead_letters()
    assert dead_letter.state == "parked"
    assert dead_letter.error == "Unusable"
    assert dead_letter.message
    assert bytes(dead_letter.body) == UNUSABLE[name]
    assert dead_letter.content_type == CLOUDEVENT
    assert shop.status(order) == Order.Status.COMPLETED
    assert_invariants(shop, [order])


AS_OTHERS_WRITE_THEM: dict[str, dict[str, Any]] = {
    "an id that is no UUID": {"id": "A-17"},
    "null attributes": {"datacontenttype": None, "correlationid": None, "causationid": None, "traceparent": None},
    "a charset": {"datacontenttype": "application/json; charset=utf-8"},
    "upper case": {"datacontenttype": "Application/JSON"},
    "a structured suffix": {"datacontenttype": "application/vnd.shop.order+json"},
    "a sequence as text": {"sequence": "0000000001", "sequencetype": "Integer"},
    "a sequence from zero": {"sequence": 0},
    "a foreign cause": {"causationid": "invoice 7"},
    "no time": {"time": ...},
    "a time without a zone": {"time": "2026-01-01T00:00:00"},
}


@pytest.mark.parametrize("name", AS_OTHERS_WRITE_THEM)
def test_an_envelope_as_others_write_it_is_handled_once(shop: Shop, name: str) -> None:
    body = event(**AS_OTHERS_WRITE_THEM[name])
    shop.send("payments", body)
    shop.send("payments", body)
    shop.drain()

    assert [step.outcome for step in shop.steps if step.service == "payments"] == [Done(), Duplicate()]
    assert Payment.objects.get().authorized == 2500
    [row] = PaymentsOutbox.objects.all()
    sent = json.loads(row.body)
    assert (sent["causationid"], row.caused_by) == (
        json.loads(body)["id"] if name == "an id that is no UUID" else str(row.caused_by),
        PaymentsInbox.objects.get().event_id,
    )


@pytest.mark.parametrize("content_type", [None, "", "application/json", "text/plain", "application/x-python-serialize"])
def test_another_content_type_is_not_read(shop: Shop, content_type: str | None) -> None:
    shop.send("payments", event(), content_type)
    shop.drain()
    [dead_letter] = shop.dead_letters("payments")
    assert "content type" in dead_letter.message
    assert not Payment.objects.exists()


def test_the_content_type_may_name_a_charset(shop: Shop) -> None:
    shop.send("payments", event(), "Application/CloudEvents+JSON; charset=utf-8")
    shop.drain()
    assert isinstance(shop.steps[0].outcome, Done)


def test_a_body_over_the_limit_is_not_read_but_kept(shop: Shop, settings: Settings) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"MAX_BODY_BYTES": 1000}
    body = data(note="x" * 1000)
    shop.send("payments", body)
    shop.drain()
    [dead_letter] = shop.dead_letters("payments")
    assert "1000 allowed" in dead_letter.message
    assert bytes(dead_letter.body) == body


def test_fields_a_reader_does_not_know_are_ignored(shop: Shop) -> None:
    shop.send("payments", event(dataschema="https://example.org/schema", comexampleextra="1"))
    shop.drain()
    assert isinstance(shop.steps[0].outcome, Done)


def test_an_event_about_an_order_nobody_placed_is_parked(shop: Shop) -> None:
    shop.send("orders", event(type="payments.payment_captured.v1", source="payments", data={}))
    shop.drain()
    [dead_letter] = shop.dead_letters("orders")
    assert dead_letter.error == "UnknownOrder"
    assert dead_letter.attempts == 1


def test_a_parcel_for_an_order_nobody_authorized_is_parked(shop: Shop) -> None:
    shop.send("payments", event(type="shipping.shipment_dispatched.v1", source="shipping", data={"parcel": "p"}))
    shop.drain()
    [dead_letter] = shop.dead_letters("payments")
    assert dead_letter.error == "NothingHeld"


def test_different_messages_that_claim_one_id_are_kept_apart(shop: Shop) -> None:
    identity = str(uuid4())
    bodies = [event(id=identity, data={"total": number}) for number in (1, 2)]
    for body in bodies:
        shop.send("payments", body)
    shop.drain()
    assert {bytes(dead_letter.body) for dead_letter in shop.dead_letters("payments")} == set(bodies)


def test_the_same_rubbish_twice_is_one_dead_letter(shop: Shop) -> None:
    for _ in range(2):
        shop.send("payments", b"hello")
    shop.drain()
    assert len(shop.dead_letters("payments")) == 1


def history(attempts: object = 0, waits: object = 0, first_seen: object = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {ATTEMPTS: attempts, WAITS: waits, FIRST_SEEN: first_seen}


@pytest.mark.parametrize(
    "headers",
    [
        history(attempts=-5),
        history(attempts=10**12),
        history(attempts=math.inf),
        history(waits=-99),
        history(first_seen="2026-01-01T00:00:00"),
        history(None, [], 3),
        {DEAD_LETTER: ["no", "key"]},
        {DEAD_LETTER: "x" * 1000},
        {DEAD_LETTER: "a\0b"},
        {"x-death": "rubbish"},
        {"task": "os.system", "id": "1", "retries": 10**9},
    ],
    ids=str,
)
def test_headers_that_make_no_sense_do_no_harm(shop: Shop, headers: dict[str, Any]) -> None:
    for body in (event(), b"rubbish", event(data={"payment_token": "tok_down", "total": 1, "currency": "EUR"})):
        shop.send("payments", body, headers=headers)
    shop.drain()
    assert [type(outcome).__name__ for outcome in shop.outcomes()[:3]] == ["Done", "Parked", "RetryLater"]


@pytest.mark.parametrize(
    "headers",
    [
        {"note": "a\0b"},
        {"a\0b": 1},
        {"note": "\ud800"},
        {"note": b"\xff"},
        {"note": math.nan},
        {"note": [{"deep": {"a": [None, True, 1.5]}}]},
    ],
    ids=str,
)
def test_whatever_is_in_the_headers_of_rubbish_it_is_parked(shop: Shop, headers: dict[str, Any]) -> None:
    shop.send("payments", b"rubbish", headers=headers)
    shop.drain()
    [dead_letter] = shop.dead_letters("payments")
    assert len(dead_letter.headers) == 1


def test_rubbish_among_the_dead_messages_is_parked_too(shop: Shop) -> None:
    shop.broker.publish("payments.dlx", "", b"rubbish", headers={"x-death": []})
    shop.drain()
    [dead_letter] = shop.dead_letters("payments")
    assert bytes(dead_letter.body) == b"rubbish"
