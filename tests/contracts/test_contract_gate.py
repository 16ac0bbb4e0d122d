"""The gate says what changed and whom it breaks; the committed contracts and the map fit the code."""

import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from jsonschema import Draft202012Validator
from pydantic import Field
from pytest_django.fixtures import Settings

from choreography.core.conf import conf
from choreography.events import compatibility
from choreography.events.messages import Announced, published
from choreography.events.readers import readers_here
from choreography.events.registry import reactions
from common.money import Amount, Currency
from orders.events import Address, CancellationRequested, Customer, LineV2, OrderPlacedV2, PersonName

PLACED = "orders.order_placed.v2"


@pytest.fixture
def redefine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave room for another class of the event type ``orders.order_placed.v2``; put the real one back afterwards."""
    monkeypatch.delitem(published, PLACED)


def test_committed_contracts_fit_the_code() -> None:
    assert list(compatibility.faults()) == []


def test_committed_map_fits_the_code() -> None:
    call_command("choreography", "map", "--check")


def test_every_contract_is_a_valid_schema_and_describes_every_field() -> None:
    for event in published.values():
        schema = compatibility.schema_of(event)
        Draft202012Validator.check_schema(schema)
        assert all("description" in field for field in schema.get("properties", {}).values()), event.event_type


def test_a_real_event_satisfies_its_committed_contract() -> None:
    event = OrderPlacedV2(
        currency="KRW",
        total=1000,
        lines=(LineV2(sku="A", name="Tea", quantity=1, unit_price=1000, amount=1000),),
        payment_token="tok_approved",
        customer=Customer(name=PersonName(full="Ada")),
        ship_to=Address(street="Main 1", city="Bonn", postal_code="", country="DE"),
    )
    schema = json.loads((conf().contracts_dir / f"{PLACED}.json").read_text())
    Draft202012Validator(schema).validate(json.loads(event.model_dump_json()))


def test_removing_a_field_names_the_version_and_the_reader_it_breaks(redefine: None) -> None:
    class WithoutTotal(Announced, type=PLACED):
        currency: Currency = Field(description="ISO 4217 code")
        lines: tuple[LineV2, ...] = Field(description="what was ordered")
        payment_token: str = Field(description="token")
        customer: Customer = Field(description="who")
        ship_to: Address = Field(description="where to")

    assert list(compatibility.broken_readers(WithoutTotal)) == ["payments.authorize_payment: total"]
    assert [fault.partition(":")[0] for fault in compatibility.faults()] == [
        f"{PLACED} has changed shape since it was published",
        f"{PLACED} breaks payments.authorize_payment",
    ]


def test_changing_a_type_inside_a_field_names_the_reader_it_breaks(redefine: None) -> None:
    class Somewhere(Address):
        postal_code: int = Field(description="no text any more")  # type: ignore[assignment]

    class Moved(OrderPlacedFields, type=PLACED):
        ship_to: Somewhere = Field(description="where to")

    assert list(compatibility.broken_readers(Moved)) == ["shipping.plan_shipment: ship_to"]


def test_an_optional_field_may_be_added_and_only_wants_writing_down(redefine: None) -> None:
    class WithGift(OrderPlacedFields, type=PLACED):
        ship_to: Address = Field(description="where to")
        gift: bool = Field(default=False, description="wrap it")

    assert list(compatibility.broken_readers(WithGift)) == []
    (fault,) = compatibility.faults()
    assert fault.startswith(f"the committed contract of {PLACED} is out of date")


def test_an_event_without_a_committed_contract_is_refused_until_it_is_written(
    settings: Settings, tmp_path: Path
) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path / "contracts"}
    with pytest.raises(CommandError, match=f"{PLACED} has no committed contract"):
        call_command("choreography", "contracts", "--check")
    readers = {reader.service for reader in readers_here()}
    assert len(compatibility.write()) == 3 * len(published) + len(conf().reports) + len(readers)
    assert compatibility.write() == []
    call_command("choreography", "contracts", "--check")


def test_an_event_that_left_the_code_while_someone_reads_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    event_type = CancellationRequested.event_type
    monkeypatch.delitem(published, event_type)
    assert list(compatibility.faults()) == [
        f"{event_type} was published and is gone from the code: it is still read by shipping.cancel_shipment"
    ]


def test_a_stale_map_is_refused(settings: Settings, tmp_path: Path) -> None:
    settings.BASE_DIR = tmp_path
    (tmp_path / "docs").mkdir()
    with pytest.raises(CommandError, match="out of date"):
        call_command("choreography", "map", "--check")
    call_command("choreography", "map", "--write")
    call_command("choreography", "map", "--check")


def test_the_map_names_every_reaction(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("choreography", "map")
    page = capsys.readouterr().out
    assert reactions()
    assert all(reaction.name in page for reaction in reactions())


class OrderPlacedFields(Announced, type="orders.fields_for_the_tests.v1"):
    """The fields of ``orders.order_placed.v2`` but for the address."""

    currency: Currency = Field(description="ISO 4217 code")
    total: Amount = Field(description="minor units")
    lines: tuple[LineV2, ...] = Field(min_length=1, description="what was ordered")
    payment_token: str = Field(description="token")
    customer: Customer = Field(description="who")


del published["orders.fields_for_the_tests.v1"]
