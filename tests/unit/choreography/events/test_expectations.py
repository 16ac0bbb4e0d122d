"""What must follow, what ends a flow, what excludes what: declared once, exported, and kept up to date."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from pytest_django.fixtures import Settings

from choreography.core.errors import ContractError
from choreography.events import declarations, expectations
from choreography.events.expectations import End, Expectation, compensates, ends_flow, expect, never_both
from orders.events import OrderCancelled, OrderCompleted
from tests.shop_in_a_box import SERVICES


@pytest.fixture
def blank() -> Iterator[None]:
    """Nothing is declared yet."""
    with (
        patch.object(expectations, "_expectations", []),
        patch.object(expectations, "_ends", {}),
        patch.object(expectations, "_exclusions", []),
        patch.object(expectations, "_compensations", set()),
    ):
        yield


@pytest.mark.usefixtures("blank")
def test_declarations_take_classes_and_names() -> None:
    expect("payments.payment_declined.v1", one_of=[OrderCancelled], within=45)
    ends_flow(OrderCompleted)
    compensates(OrderCancelled)

    assert expectations.expectations() == [
        Expectation("orders", "payments.payment_declined.v1", ("orders.order_cancelled.v1",), timedelta(seconds=45))
    ]
    assert expectations.ends() == [End("orders.order_completed.v1", needs_person=False)]
    assert expectations.compensations() == {"orders.order_cancelled.v1"}


@pytest.mark.usefixtures("blank")
def test_what_can_not_be_meant_is_refused() -> None:
    with pytest.raises(ContractError, match="nothing is expected after"):
        expect(OrderCompleted, one_of=[], within=1)
    with pytest.raises(ContractError, match="is not an event type"):
        never_both(OrderCompleted, "whatever")
    ends_flow(OrderCompleted)
    with pytest.raises(ContractError, match="declared as an end twice"):
        ends_flow(OrderCompleted)
    expect(OrderCompleted, one_of=[OrderCancelled], within=1)
    with pytest.raises(ContractError, match="the same is expected twice"):
        expect(OrderCompleted, one_of=[OrderCancelled], within=timedelta(seconds=1))


def test_the_committed_files_say_what_the_code_says() -> None:
    read = declarations.read_all()

    assert set(read.services) == set(SERVICES)
    assert set(read.expectations) == set(expectations.expectations())
    assert set(read.ends.values()) == set(expectations.ends())
    assert {reaction.name for reaction in read.reactions} >= {"payments.authorize_payment", "orders.cancel_order"}


def test_a_file_that_is_out_of_date_is_a_fault(settings: Settings, tmp_path: Path) -> None:
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path, "REPORTS": ("payments",)}
    assert [*declarations.faults()] == [
        "what payments declares is not what services/payments.json says: run manage.py choreography contracts --write"
    ]

    assert [path.name for path in declarations.write()] == ["payments.json"]
    assert declarations.write() == []
    assert [*declarations.faults()] == []

    path = tmp_path / "services" / "payments.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ends": {}}))
    assert len([*declarations.faults()]) == 1
