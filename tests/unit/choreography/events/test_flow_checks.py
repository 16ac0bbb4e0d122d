"""What is wrong with the flows is found in the code, with the event or reaction that is to be changed."""

import json
from collections.abc import Iterator

import pytest
from django.core.management import call_command
from pydantic import Field

from choreography import Announced
from choreography.events import expectations
from choreography.events.flow_checks import flaws
from choreography.events.messages import published
from choreography.testing import override


@pytest.fixture(autouse=True)
def _forgets_new_events() -> Iterator[None]:
    before = dict(published)
    yield
    published.clear()
    published.update(before)


def found(check: str) -> dict[str, str]:
    """What the check has found: what is wrong, by what it is about."""
    return {flaw.about: flaw.what for flaw in flaws() if flaw.check == check}


def test_the_shop_has_none() -> None:
    assert [*flaws()] == []
    call_command("choreography", "check")


def test_an_event_that_nobody_reads_is_named() -> None:
    class OrderParked(Announced, type="orders.order_parked.v1"):
        """The order waits for a person."""

    assert set(found("unread")) == {OrderParked.event_type}


def test_an_event_for_programs_outside_need_not_be_read() -> None:
    class StockCounted(Announced, type="orders.stock_counted.v1", for_others=True):
        """How much is left."""

    assert [*flaws()] == []


def test_a_reaction_to_an_event_that_nobody_announces_is_named() -> None:
    with override("shipping.plan_shipment", event_types=("orders.order_plaecd.v2",)):
        assert found("unannounced") == {
            "shipping.plan_shipment": "it reacts to orders.order_plaecd.v2, which nobody announces"
        }


def test_a_failure_that_nothing_takes_back_is_named() -> None:
    class ParcelLost(Announced, type="shipping.parcel_lost.v1"):
        """The carrier has lost it."""

    assert set(found("uncompensated")) == {ParcelLost.event_type}
    with override("orders.cancel_order", event_types=(ParcelLost.event_type,)):
        assert found("uncompensated") == {}  # it announces OrderCancelled, which takes back


def test_a_flow_that_may_never_end_is_named_with_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining = [each for each in expectations.expectations() if each.after != "shipping.shipment_delivered.v1"]
    monkeypatch.setattr(expectations, "_expectations", remaining)

    with (
        override("orders.record_delivery", announces=frozenset()),
        override("orders.record_capture", announces=frozenset()),
    ):
        endless = found("endless")

    assert set(endless) == {"orders.order_placed.v1", "orders.order_placed.v2"}
    assert "shipping.shipment_delivered" in endless["orders.order_placed.v2"]


@pytest.mark.parametrize("name", ["order_canceled", "cancelled_order"])
def test_two_names_of_one_event_are_named(name: str) -> None:
    class Again(Announced, type=f"orders.{name}.v1"):
        """No sale."""

    assert len(found("same_meaning")) == 1


def test_two_events_with_one_description_are_named() -> None:
    class SaleMade(Announced, type="orders.sale_made.v1"):
        """The parcel was delivered, and the money taken."""

        total: int = Field(description="in minor units")

    assert set(found("same_meaning")) == {"orders.order_completed.v1, orders.sale_made.v1"}


def test_findings_are_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    class OrderParked(Announced, type="orders.order_parked.v1"):
        """The order waits for a person."""

    with pytest.raises(SystemExit) as ended:
        call_command("choreography", "check", "--json")
    found = json.loads(capsys.readouterr().out)

    assert ended.value.code == 1
    assert {(flaw["check"], flaw["about"]) for flaw in found} == {
        ("unread", OrderParked.event_type),
        ("endless", OrderParked.event_type),
    }
    with pytest.raises(SystemExit):
        call_command("choreography", "check")
    assert "orders.order_parked.v1: no service reads it" in capsys.readouterr().out
