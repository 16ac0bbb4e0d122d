"""A new message for a dead letter must be the same event, keep to its contract, and be readable by the service."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pytest_django.fixtures import Settings

from choreography.dead_letters.editing import Refused, check
from tests.wire import event, text

#: As orders announces it, whole.
PLACED = event(
    data={
        "currency": "EUR",
        "total": 2500,
        "lines": [{"sku": "TEA", "name": "Tea", "quantity": 2, "unit_price": 1250, "amount": 2500}],
        "payment_token": "tok_approved",
        "customer": {"name": {"full": "Ada"}},
        "ship_to": {"street": "Main", "city": "Bonn", "postal_code": "53111", "country": "DE"},
    }
)
OLD = text(PLACED)


def placed(**changes: Any) -> bytes:
    """The event with other data; ``...`` leaves a field out."""
    data = {name: value for name, value in (PLACED["data"] | changes).items() if value is not ...}
    return text(PLACED | {"data": data})


def refusal(old: bytes, new: bytes, service: str = "payments") -> str:
    with pytest.raises(Refused) as caught:
        check(service, old, new)
    return str(caught.value)


def test_other_data_that_keeps_to_the_contract_is_accepted() -> None:
    envelope, reaction = check("payments", OLD, placed(payment_token="tok_other"))

    assert str(envelope.id) == PLACED["id"]
    assert reaction.name == "payments.authorize_payment"


def test_the_time_may_be_mended() -> None:
    check("payments", OLD, text(PLACED | {"time": "2026-02-02T00:00:00Z"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", str(UUID(int=1))),
        ("type", "orders.order_cancelled.v1"),
        ("source", "somebody"),
        ("subject", str(UUID(int=2))),
    ],
)
def test_it_must_stay_the_same_event(name: str, value: str) -> None:
    told = refusal(OLD, text(PLACED | {name: value}))

    assert told == f"It would be another event: {name} must stay as it was."


BREACHES = {
    "a field is missing": (placed(currency=...), "'currency' is a required property"),
    "another type": (placed(total="25"), '$.total: type "integer"'),
    "below the minimum": (placed(total=-1), "$.total: minimum 0"),
    "no such currency": (placed(currency="euro"), '$.currency: pattern "^[A-Z]{3}$"'),
    "deep inside": (
        placed(lines=[{"sku": "TEA", "name": "Tea", "quantity": 0, "unit_price": 1, "amount": 0}]),
        "quantity: minimum",
    ),
    "not an object": (text(PLACED | {"data": []}), '$: type "object"'),
    "no data": (text({name: value for name, value in PLACED.items() if name != "data"}), '$: type "object"'),
}


@pytest.mark.parametrize(("new", "told"), BREACHES.values(), ids=BREACHES.keys())
def test_what_breaks_the_contract_is_refused_by_name(new: bytes, told: str) -> None:
    said = refusal(OLD, new)

    assert said.startswith("It breaks the contract of orders.order_placed.v2: ")
    assert told in said


def test_a_field_only_the_publisher_promises_is_checked_too() -> None:
    """Payments does not read the address, but a message without one is not what orders would have announced."""
    assert "'ship_to' is a required property" in refusal(OLD, placed(ship_to=...))


def test_values_are_not_quoted() -> None:
    assert "secret" not in refusal(OLD, placed(currency="secret", total="secret"))


def test_without_a_committed_contract_the_readers_model_decides(settings: Settings, tmp_path: Path) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path}

    check("payments", OLD, placed(ship_to=...))
    assert refusal(OLD, placed(total=...)) == "payments.authorize_payment can't read it: data.total: Field required"


def test_an_unreadable_message_may_become_any_event_of_the_service() -> None:
    _, reaction = check("payments", b"rubbish", OLD)

    assert reaction.name == "payments.authorize_payment"


@pytest.mark.parametrize("new", [b"", b"rubbish", b"[]", b"\xff", b"{}"])
def test_what_is_no_event_is_refused(new: bytes) -> None:
    for old in (OLD, b"rubbish"):
        assert refusal(old, new).startswith("It is no event: ")


def test_an_event_the_service_does_not_react_to_is_refused() -> None:
    completed = text(event("orders.order_completed.v1", data={"currency": "EUR", "total": 1}))

    assert refusal(b"rubbish", completed) == "payments has no reaction to orders.order_completed.v1."


def test_too_large_a_message_is_refused() -> None:
    assert "bytes, more than" in refusal(OLD, placed(note="x" * 300_000))


def test_json_may_be_written_as_people_do() -> None:
    check("payments", OLD, json.dumps(PLACED, indent=4).replace("\n", "\r\n").encode())
