"""``manage.py journal show|backfill|forget``."""

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from choreography.events.messages import family_of
from choreography.testing import override
from journal.models import Cursor, Entry, Flow, Inbox, Keyword, Outcome
from orders.models import Outbox
from tests.flows.scenarios import SCENARIOS, Scenario
from tests.journal_agrees import disagreements
from tests.shop_in_a_box import Shop


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("journal", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_show_tells_a_flow_in_the_terminal(shop: Shop) -> None:
    order = shop.place("tok_fails_twice")
    shop.settle_at_once()

    lines = run("show", order.number).splitlines()

    assert lines[0].startswith(f"{order.number}  ended")
    assert any("orders    announced order_placed v2" in line for line in lines)
    steps = [line.partition("authorize_payment")[2] for line in lines if "authorize_payment" in line]
    assert [step.partition(" after")[0] for step in steps[:2]] == [" retried, again"] * 2
    assert steps[2].startswith(": done (")
    assert steps[2].endswith(", attempt 3")


def test_show_tells_a_program(shop: Shop) -> None:
    order = shop.place()
    shop.settle_at_once()

    assert json.loads(run("show", str(order.pk), "--json"))["end"] == "orders.order_completed.v1"


def test_show_names_what_it_does_not_know() -> None:
    with pytest.raises(CommandError, match="no flow nobody"):
        run("show", "nobody")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_backfill_makes_a_journal_of_what_the_services_have(shop: Shop, scenario: Scenario) -> None:
    order = scenario.start(shop)
    shop.tick("orders.announce_accounts")  # of an hour, not of a flow
    shop.settle_at_once()
    before = comparable(Flow.objects.values().get())
    for model in (Flow, Entry, Outcome, Inbox, Cursor):
        model._default_manager.all().delete()

    run("backfill")

    assert [*disagreements([order.pk])] == []
    assert comparable(Flow.objects.values().get()) == before
    assert run("backfill") == "0 row(s) read\n", "it goes on where it ended"


def test_backfill_leaves_alone_what_is_known(shop: Shop) -> None:
    shop.place("tok_fails_twice")
    with override("shipping.plan_shipment", function=plan_shipment):
        shop.settle_at_once()
    rows = [model._default_manager.count() for model in (Flow, Entry)]
    parked = Flow.objects.get().parked

    run("backfill", "--again")

    assert [model._default_manager.count() for model in (Flow, Entry)] == rows
    assert Flow.objects.get().parked == parked


def test_forget_masks_a_person_and_keeps_the_shape(shop: Shop) -> None:
    order = shop.place()
    shop.settle_at_once()
    events = Flow.objects.get().events

    said = run("forget", "--email", "Ada@example.org")

    assert said.startswith("1 flow(s): 1 event(s) in the journal, 2 in outboxes")
    for text in [*Entry.objects.values_list("body", flat=True), *Outbox.objects.values_list("body", flat=True)]:
        assert "Ada" not in text
        assert "Main Street" not in text
        assert "ada@example.org" not in text
    assert Flow.objects.get().events == events
    assert not Keyword.objects.filter(is_personal=True).exists()
    assert json.loads(Outbox.objects.get(event_type="orders.order_placed.v2").body)["data"]["total"] == order.total


def test_forget_leaves_what_work_depends_on_and_says_so(shop: Shop) -> None:
    with override("payments.authorize_payment", function=plan_shipment):
        shop.place()
        shop.settle_at_once()

    with pytest.raises(CommandError, match=r"1 row\(s\) are left"):
        run("forget", "--email", "ada@example.org")

    [dead_letter] = shop.dead_letters("payments")
    assert b"Main Street" in bytes(dead_letter.body)
    assert Keyword.objects.filter(is_personal=True).exists(), "it can be run again"


def comparable(flow: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on how the journal learnt of it."""
    left_out = ("state", "check_at", "last_at", "ended_at")
    return {name: value for name, value in flow.items() if name not in left_out} | {
        "has_ended": flow["ended_at"] is not None,
        "events_of": sorted((event, family_of(kind)) for event, kind in flow["state"]["events"].items()),
    }


def plan_shipment(*_: object) -> None:
    raise ZeroDivisionError
