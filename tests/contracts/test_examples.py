"""Golden messages: what was sent once must stay readable, by every reader, for ever."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pydantic import Field
from pytest_django.fixtures import Settings

from choreography import Announced, Heard
from choreography.core.conf import conf
from choreography.events import compatibility
from choreography.events.examples import Example, examples, lost
from choreography.events.messages import CONTENT_TYPE, published
from choreography.events.readers import all_readers
from choreography.inbox.deliveries import Delivery
from choreography.testing import override
from tests.contracts.test_changes import commit
from tests.contracts.test_changes import repository as repository  # a fixture

V1, V2 = "orders.order_placed.v1", "orders.order_placed.v2"
EVERY = [example for event_type in sorted(published) for example in examples(event_type)]

Edit = Callable[[str, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def edit(settings: Settings, tmp_path: Path) -> Edit:
    """Change a golden message in a copy of the contracts, which is used instead of them."""
    shutil.copytree(conf().contracts_dir, tmp_path / "contracts")
    settings.CHOREOGRAPHY = settings.CHOREOGRAPHY | {"CONTRACTS_DIR": tmp_path / "contracts"}

    def change(path: str, how: Callable[[dict[str, Any]], None]) -> None:
        file = tmp_path / "contracts" / "examples" / path
        message = json.loads(file.read_text())
        how(message)
        file.write_text(json.dumps(message))

    return change


def test_every_event_has_a_minimal_and_a_full_message() -> None:
    assert [*compatibility.faults()] == []
    for event_type in published:
        assert [example.name for example in examples(event_type)][:2] == ["minimal", "full"]


@pytest.mark.parametrize("example", EVERY, ids=lambda it: f"{it.event_type}-{it.name}")
def test_every_service_that_hears_it_reads_it(example: Example) -> None:
    for service in conf().services:
        delivery = Delivery(service, example.body.encode(), CONTENT_TYPE)
        if delivery.has_reaction:
            assert delivery.event.type == example.event_type


def test_what_the_first_version_of_the_shop_sent_is_among_them() -> None:
    assert "customer_email" not in json.loads(body_of(V1, "first_sent"))["data"]
    assert "hops" not in json.loads(body_of(V1, "first_sent"))


@pytest.mark.parametrize(
    ("path", "how", "complaint"),
    [
        (f"{V2}/minimal.json", lambda it: it["data"].pop("total"), r"does not fit its contract at \$: 'total'"),
        (f"{V2}/minimal.json", lambda it: it["data"]["customer"].update(email="a@b"), "leave out customer.email"),
        (
            f"{V2}/full.json",
            lambda it: it["data"]["customer"].pop("email"),
            "lacks optional fields: add customer.email",
        ),
        (f"{V2}/full.json", lambda it: it.pop("specversion"), "is no event"),
        (f"{V2}/full.json", lambda it: it.pop("data"), "is no event"),
        (f"{V2}/full.json", lambda it: it.update(type=V1), "put it into that folder"),
    ],
)
def test_a_message_that_is_not_what_it_should_be_is_named(edit: Edit, path: str, how: Any, complaint: str) -> None:
    edit(path, how)

    with pytest.raises(CommandError, match=f"golden message examples/{path} .*{complaint}"):
        call_command("choreography", "contracts")


def test_a_reader_that_can_not_read_one_of_them_is_named() -> None:
    class Explained(Heard):
        explanation: str

    with override("orders.resume_order", reads=Explained):
        faults = [fault for fault in compatibility.faults() if "golden" in fault]

    assert len(faults) == len(examples("shipping.cancellation_refused.v1"))
    assert all("can't be read by orders.resume_order: Unusable: data.explanation" in fault for fault in faults)


def test_a_reader_elsewhere_that_can_not_read_one_is_named(settings: Settings) -> None:
    known = [
        reader._replace(service="elsewhere", reaction="elsewhere.greet", schema={"required": ["customer_email"]})
        for reader in all_readers()
        if reader.event_type == V1
    ][:1]

    first_sent = Example(V1, "first_sent", body_of(V1, "first_sent").replace("Ada", "Eva"))
    [change] = lost([first_sent], compatibility.current(), known)

    assert (change.level, change.breaks) == ("breaking", ("elsewhere.greet",))


def test_drafts_of_messages_are_written_for_a_new_event(settings: Settings, edit: Edit) -> None:
    class StockCounted(Announced, type="orders.stock_counted.v1"):
        """How much is left."""

        sku: str = Field(description="stock keeping unit")
        left: int = Field(ge=3, description="how many")
        country: str | None = Field(default=None, pattern="^[A-Z]{2}$", description="where")

    try:
        call_command("choreography", "contracts", "--write")
        assert [*compatibility.faults()] == []
        drafts = {it.name: json.loads(it.body)["data"] for it in examples(StockCounted.event_type)}
    finally:
        del published[StockCounted.event_type]

    assert drafts["minimal"] == {"sku": "sku", "left": 3}
    assert set(drafts["full"]) == {"sku", "left", "country"}


def test_messages_of_an_event_that_is_gone_are_named(edit: Edit) -> None:
    folder = conf().contracts_dir / "examples"
    shutil.copytree(folder / V1, folder / "orders.order_paced.v1")

    assert [fault.partition(" has")[0] for fault in compatibility.faults()] == ["examples/orders.order_paced.v1"]


def test_a_golden_message_that_was_removed_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "examples" / V1 / "first_sent.json").unlink()
    call_command("choreography", "contracts", "check", "--against", "before")

    assert "risky: orders.order_placed.v1: its golden message first_sent is gone" in capsys.readouterr().out

    (repository / "examples" / V1 / "kept.json").write_text(body_of(V1, "minimal"))
    commit(repository, "kept")
    call_command("choreography", "contracts", "check", "--against", "kept")
    assert capsys.readouterr().out == ""


def body_of(event_type: str, name: str) -> str:
    return next(example.body for example in examples(event_type) if example.name == name)
