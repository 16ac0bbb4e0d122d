"""The journal's story of an order agrees with the services' own rows, whatever order it hears things in."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from django.conf import settings

from choreography.broker.embedded.store import Stored
from choreography.core import clock
from choreography.dead_letters.actions import By, discard, send_again
from choreography.events.messages import CONTENT_TYPE, family_of
from choreography.inbox.deliveries import Delivery
from choreography.inbox.parking import Fault, park
from choreography.storage.tables import ServiceTables
from choreography.testing import override
from journal.history import number_of
from journal.models import Entry, Flow, Inbox, Keyword, Outcome
from tests.flows.scenarios import SCENARIOS, Scenario
from tests.journal_agrees import disagreements
from tests.shop_in_a_box import SERVICES, Shop


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_it_has_every_event_and_every_effect_of_an_order_that_ends(shop: Shop, scenario: Scenario) -> None:
    order = scenario.start(shop)
    shop.settle_at_once()

    flow = Flow.objects.get(pk=str(order.pk))

    assert [*disagreements([order.pk])] == []
    assert flow.number == order.number
    assert (flow.state.get("open"), flow.state.get("due"), flow.mark) == (None, None, "")
    assert flow.ended_at is not None
    assert flow.events == Entry.objects.filter(flow=flow.pk).count()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_it_hears_things_makes_no_difference(shop: Shop, scenario: Scenario, seed: int) -> None:
    heard = withheld(shop, scenario)
    for message in heard:
        shop.put("journal", message)
    shop.drain()
    in_order = [*Flow.objects.values()]
    for model in (Flow, Entry, Outcome):
        model._default_manager.all().delete()
    Inbox.objects.all().delete()

    Random(seed).shuffle(heard)
    for message in [*heard, *heard[:3]]:
        shop.put("journal", message)
    shop.drain()

    assert [_comparable(flow) for flow in Flow.objects.values()] == [_comparable(flow) for flow in in_order]


def test_what_fails_is_told_attempt_by_attempt(shop: Shop) -> None:
    order = shop.place("tok_fails_twice")
    shop.settle_at_once()

    told = Outcome.objects.filter(flow=str(order.pk), reaction="payments.authorize_payment").order_by("ended_at")

    assert [(each.what, each.attempt) for each in told] == [("retried", 1), ("retried", 2), ("done", 3)]
    assert told[0].error.startswith("GatewayError")
    assert told[0].next_at is not None
    assert told[2].published_at is not None


def test_what_is_parked_stays_pending_until_it_is_sent_again(shop: Shop) -> None:
    with override("payments.authorize_payment", function=close_shipment):
        order = shop.place()
        shop.settle_at_once()
    parked = Flow.objects.get(pk=str(order.pk))
    assert (parked.parked, parked.ended_at) == (1, None)

    [dead_letter] = shop.dead_letters("payments")
    send_again(dead_letter, shop, By("ada"))
    shop.settle_at_once()

    flow = Flow.objects.get(pk=str(order.pk))
    assert (flow.parked, flow.end) == (0, "orders.order_completed.v1")
    assert flow.ended_at is not None
    again = Outcome.objects.get(flow=str(order.pk), what="sent_again")
    assert (again.who, again.reaction) == ("ada", "payments.authorize_payment")
    assert [*disagreements([order.pk])] == []


def test_what_is_discarded_is_pending_no_more(shop: Shop) -> None:
    with override("shipping.close_shipment", function=close_shipment):
        order = shop.place("tok_declined_funds")
        shop.settle_at_once()
    assert Flow.objects.get(pk=str(order.pk)).ended_at is None

    [dead_letter] = shop.dead_letters("shipping")
    discard(dead_letter, By("ada", "nothing was planned"))
    shop.settle_at_once()

    flow = Flow.objects.get(pk=str(order.pk))
    assert (flow.parked, flow.end) == (0, "orders.order_cancelled.v1")
    assert flow.ended_at is not None


def test_what_took_effect_by_another_copy_is_parked_no_more(shop: Shop) -> None:
    order = shop.place("tok_declined_funds")
    shop.settle_at_once()
    row = ServiceTables("orders").outbox.get(subject=str(order.pk), event_type="orders.order_cancelled.v1")
    shop.time.advance(1)
    copy = Delivery("shipping", row.body.encode(), CONTENT_TYPE)
    park([Fault(copy, copy.event, copy.reaction, TimeoutError("its claim was another's"), 1)])
    shop.settle_at_once()
    assert Flow.objects.get(pk=str(order.pk)).parked == 1

    shop.tick("shipping.redrive_dead_letters")
    shop.settle_at_once()

    flow = Flow.objects.get(pk=str(order.pk))
    assert (flow.parked, flow.end) == (0, "orders.order_cancelled.v1")
    assert [*disagreements([order.pk])] == []


def test_a_refused_capture_needs_a_person(shop: Shop) -> None:
    order = shop.place("tok_capture_refused")
    shop.settle_at_once()

    flow = Flow.objects.get(pk=str(order.pk))

    assert flow.needs_person
    assert flow.end == "payments.capture_failed.v1"


def test_a_journal_that_was_off_for_a_day_catches_up_and_marks_nothing(shop: Shop) -> None:
    shop.services.remove("journal")
    order = shop.place()
    shop.settle_at_once()
    shop.time.advance(86_400)
    shop.services.append("journal")

    shop.tick("journal.check_flows")
    shop.drain()
    shop.tick("journal.check_flows")

    assert [*disagreements([order.pk])] == []
    assert Flow.objects.get().mark == ""


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_a_foreign_event_may_come_from_any_time_and_be_about_anything(shop: Shop, time: str) -> None:
    event = {
        "specversion": "1.0",
        "id": "not a uuid",
        "type": "payments.payment_captured.v1",
        "source": "/elsewhere",
        "subject": "a/b?c=#d \u00e9",
        "time": time,
        "data": {"amount": 1, "currency": "EUR", "text": "\u0000"},
    }
    shop.send("journal", json.dumps(event).encode())
    shop.drain()

    assert Flow.objects.get().pk == "a/b?c=#d \u00e9"
    assert not shop.dead_letters("journal")


def test_what_no_database_keeps_of_a_foreign_event_is_left_out(shop: Shop) -> None:
    event = {
        "specversion": "1.0",
        "id": "7",
        "type": "shipping.shipment_dispatched.v1",
        "source": "shipping",
        "subject": "somewhere",
        "causationid": "\0",
        "correlationid": "\0",
        "traceparent": "\0",
        "data": {"parcel": "\0PAR-1\0"},
    }
    shop.send("journal", json.dumps(event).encode())
    shop.drain()

    entry = Entry.objects.get()
    assert (entry.flow, entry.caused_by, entry.traceparent) == ("somewhere", "", "")
    assert json.loads(entry.body) == event["data"]
    assert [*Keyword.objects.values_list("word", flat=True)] == ["par-1"]
    assert not shop.dead_letters("journal")


def test_while_it_reads_old_events_it_marks_nothing(shop: Shop) -> None:
    heard = withheld(shop, SCENARIOS[0])
    shop.time.advance(86_400)
    for message in heard[:1]:
        shop.put("journal", message)
    shop.drain()

    shop.tick("journal.check_flows")

    flow = Flow.objects.get()
    assert flow.state["open"], "what is overdue is in the journal's own queue"
    assert flow.mark == ""


def test_reports_that_a_relay_has_published_twice_count_once(shop: Shop) -> None:
    heard = withheld(shop, SCENARIOS[2])
    for message in heard:
        shop.put("journal", message)
    shop.drain()
    before = Outcome.objects.count()

    for message in heard:
        event = json.loads(message.body)
        if "deliveries_reported" in event["type"]:
            again = event | {"id": str(clock.new_id()), "subject": str(clock.new_id())}
            shop.send("journal", json.dumps(again).encode())
    shop.drain()

    assert Outcome.objects.count() == before > 0


@pytest.mark.parametrize("name", ["published_at", "received_at", "started_at", "ended_at", "next_at"])
@pytest.mark.parametrize("beyond", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"])
def test_a_report_with_a_time_that_cannot_be_kept_is_parked(shop: Shop, name: str, beyond: str) -> None:
    report = json.loads((settings.BASE_DIR / "contracts/examples/orders.deliveries_reported.v1/full.json").read_text())
    report["data"]["deliveries"][0][name] = beyond

    shop.send("journal", json.dumps(report).encode())
    shop.drain()

    (dead_letter,) = shop.dead_letters("journal")
    assert f"data.deliveries.0.{name}: Input should be" in dead_letter.message
    assert not Flow.objects.exists()


def test_what_the_journal_misses_or_invents_is_found(shop: Shop) -> None:
    order = shop.place()
    shop.settle_at_once()
    Entry.objects.filter(type="payments.payment_captured.v1").delete()
    Outcome.objects.filter(reaction="orders.record_capture").update(reaction="orders.record_dream")

    found = [*disagreements([order.pk])]

    assert len(found) == 3
    assert "event missing in the journal: ('payments.payment_captured'" in found[0]
    assert "effect missing in the journal: ('orders.record_capture'" in found[1]
    assert "effect invented by the journal: ('orders.record_dream'" in found[2]


def test_a_flow_is_named_by_the_end_of_its_id() -> None:
    assert number_of("019b76da-a800-7000-8000-00000012265b") == "0012265B"
    assert number_of("table/7") == "TABLE7"


def withheld(shop: Shop, scenario: Scenario) -> list[Stored]:
    """What the journal should have heard of a scenario, once it has ended."""
    shop.services.remove("journal")
    scenario.start(shop)
    shop.settle_at_once()
    for service in SERVICES:
        shop.relay(service)
    heard = []
    while message := shop.take("journal"):
        heard.append(message)
        shop.acknowledge(message)
    shop.services.append("journal")
    return heard


def _comparable(flow: Mapping[str, Any]) -> dict[str, object]:
    state = flow["state"]
    plain = {name: value for name, value in flow.items() if name not in ("state", "check_at")}
    events = sorted((event, family_of(event_type)) for event, event_type in state["events"].items())
    return plain | {"events_of": events, "open": state.get("open"), "due": state.get("due")}


def close_shipment(*_: object) -> None:
    raise ZeroDivisionError
