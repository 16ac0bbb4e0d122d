"""What should have happened and did not: the flow is marked, with what to look at, and unmarked when it goes on."""

import json
from typing import Any

import pytest
from django.core import mail
from django.db import connections
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from choreography.broker.topology import Waiting
from choreography.dead_letters.actions import By, discard
from choreography.outbox.announcing import announce, transaction_of
from choreography.testing import override
from journal import culprits
from journal.models import Flow, MarkOfFlow, Outbox, ServiceStatus
from orders.events import OrderCancelled
from orders.models import Order
from tests.shop_in_a_box import Shop

CHECK = "journal.check_flows"


@pytest.fixture(autouse=True)
def queues(monkeypatch: pytest.MonkeyPatch) -> dict[str, Waiting | None]:
    """What is seen of the services' queues: by default a worker, and nothing that waits."""
    seen: dict[str, Waiting | None] = {}
    monkeypatch.setattr(culprits, "look_at_queue", lambda service: seen.get(service, Waiting(0, 1)))
    return seen


def overdue(shop: Shop, seconds: float = 50) -> MarkOfFlow:
    """Let time pass, check, and return the one mark there is."""
    alive(shop, seconds)
    shop.tick(CHECK)
    return MarkOfFlow.objects.get(cleared_at=None)


def alive(shop: Shop, seconds: float = 0) -> None:
    """All relays say that they are well, after some time."""
    shop.time.advance(seconds)
    for service in ("orders", "payments", "shipping"):
        ServiceStatus.objects.update_or_create(service=service, defaults={"at": shop.time.now()})


def without_worker(shop: Shop, service: str) -> Order:
    """An order of which one service has not handled anything."""
    order = shop.place()
    shop.services.remove(service)
    shop.settle_at_once()
    shop.services.append(service)
    return order


def test_a_worker_that_is_off_is_named(shop: Shop, queues: dict[str, Waiting | None]) -> None:
    order = without_worker(shop, "payments")
    queues["payments"] = Waiting(1, 0)

    mark = overdue(shop)

    assert (mark.flow, mark.kind, mark.culprit) == (str(order.pk), "missing", "payments")
    assert "payments.authorize_payment has not said what became of orders.order_placed.v2" in mark.what
    assert "no worker of payments takes messages, and 1 wait" in mark.what
    assert mark.remedy.startswith("start it")
    assert Flow.objects.get().mark == "missing"


def test_it_is_unmarked_when_it_goes_on(shop: Shop) -> None:
    without_worker(shop, "payments")
    overdue(shop)
    shop.time.advance(1)

    shop.settle_at_once()

    assert Flow.objects.get().mark == ""
    mark = MarkOfFlow.objects.get()
    assert mark.cleared_at is not None
    assert mark.cleared_at > mark.since


def test_nothing_is_marked_before_its_time(shop: Shop) -> None:
    without_worker(shop, "payments")
    alive(shop, 40)

    shop.tick(CHECK)

    assert not MarkOfFlow.objects.exists()


def test_a_relay_that_is_off_is_named(shop: Shop) -> None:
    without_worker(shop, "payments")
    alive(shop, 50)
    ServiceStatus.objects.filter(service="payments").delete()

    shop.tick(CHECK)

    mark = MarkOfFlow.objects.get()
    assert "the relay of payments does not run" in mark.what
    assert "manage.py relay payments" in mark.remedy


def test_a_message_that_vanished_is_told_from_one_that_waits(shop: Shop, queues: dict[str, Waiting | None]) -> None:
    shop.place()
    shop.relay("orders")
    lost = shop.take("payments")
    assert lost is not None
    shop.acknowledge(lost)
    shop.settle_at_once()

    mark = overdue(shop)

    assert "the message did not reach payments: its queue was purged or is not bound" in mark.what
    assert "send_again payments" in mark.remedy


def test_a_queue_that_is_missing_is_named(shop: Shop, queues: dict[str, Waiting | None]) -> None:
    without_worker(shop, "shipping")
    queues["shipping"] = None

    assert "the queue of shipping is missing" in overdue(shop).what


def test_a_reaction_that_forgets_to_announce_is_found(shop: Shop) -> None:
    with override("payments.authorize_payment", function=authorize_payment):
        shop.place()
        shop.settle_at_once()

    mark = overdue(shop)

    assert mark.culprit == "payments"
    assert "payments.payment_authorized.v1 or" in mark.what
    assert "payments has reacted and not announced it" in mark.what


def test_two_ends_of_one_flow_are_illegal_at_once(shop: Shop) -> None:
    order = shop.place()
    shop.settle_at_once()
    with transaction_of("orders"):
        announce(OrderCancelled(reason="bug"), subject=order.pk)
    shop.relay("orders")
    shop.drain()

    mark = MarkOfFlow.objects.get(kind="illegal")

    assert mark.what == "orders.order_completed.v1 and orders.order_cancelled.v1 exclude each other"


def test_an_event_that_no_reaction_to_its_cause_may_announce_is_illegal(shop: Shop) -> None:
    shop.place()
    shop.relay("orders")
    placed = shop.take("payments")
    assert placed is not None
    event = json.loads(placed.body)
    shop.put("payments", placed)
    shop.acknowledge(placed)
    forged = event | {
        "id": "019b76da-a800-7000-8000-0000000000ff",
        "type": "payments.payment_refunded.v1",
        "source": "payments",
        "causationid": event["id"],
        "data": {"amount": 1, "currency": "EUR"},
    }
    shop.send("journal", json.dumps(forged).encode())
    shop.drain()

    what = MarkOfFlow.objects.get(kind="illegal").what

    assert what == ("no reaction of payments to orders.order_placed.v2 may announce payments.payment_refunded.v1")


def test_a_flow_in_which_nothing_is_pending_and_that_has_no_end_has_stalled(shop: Shop) -> None:
    event = {
        "specversion": "1.0",
        "id": "019b76da-a800-7000-8000-0000000000fe",
        "type": "shipping.cancellation_refused.v1",
        "source": "shipping",
        "subject": "somebody's parcel",
        "time": shop.time.now().isoformat(),
        "data": {"reason": "none"},
    }
    shop.send("journal", json.dumps(event).encode())
    shop.drain()
    flow = Flow.objects.get()
    flow.state["open"] = {}
    flow.save()

    mark = overdue(shop)

    assert mark.kind == "stalled"
    assert mark.what.startswith("nothing is pending since 00:00:00 UTC")


def test_what_a_person_has_discarded_does_not_stall(shop: Shop) -> None:
    event = {
        "specversion": "1.0",
        "id": "019b76da-a800-7000-8000-0000000000fe",
        "type": "payments.payment_captured.v1",
        "source": "payments",
        "subject": "01999999-a800-7000-8000-0000000000fe",
        "time": shop.time.now().isoformat(),
        "data": {"amount": 2500, "currency": "EUR"},
    }
    for service in ("orders", "journal"):
        shop.send(service, json.dumps(event).encode())
    shop.settle_at_once()
    [dead_letter] = shop.dead_letters("orders")
    discard(dead_letter, By("ada", "no such order"))
    shop.settle_at_once()
    alive(shop, 90)

    shop.tick(CHECK)

    flow = Flow.objects.get()
    assert (flow.mark, flow.parked, flow.end) == ("", 0, "")


def test_a_mark_is_announced_once(shop: Shop) -> None:
    without_worker(shop, "payments")
    overdue(shop)
    shop.time.advance(300)

    shop.tick(CHECK)

    [row] = Outbox.objects.all()
    event = json.loads(row.body)
    assert (event["type"], event["data"]["kind"]) == ("journal.flow_overdue.v1", "missing")
    assert event["data"]["culprit"] == "payments"


def test_people_are_told_once_of_all_new_marks_together(shop: Shop, settings: Settings) -> None:
    settings.JOURNAL_MAIL_TO = ["operator@example.org"]
    shop.place()
    shop.place()
    without_worker(shop, "payments")
    alive(shop, 50)
    shop.tick(CHECK)

    shop.tick("journal.tell_of_marks")
    shop.tick("journal.tell_of_marks")

    [message] = mail.outbox
    assert message.subject == "3 flows are overdue"
    assert message.to == ["operator@example.org"]
    assert "ada@example.org" not in message.body


@pytest.mark.parametrize("flows", [2, 20])
def test_a_check_takes_as_many_queries_for_many_flows_as_for_few(shop: Shop, flows: int) -> None:
    for _ in range(flows):
        shop.place()
    shop.services.remove("payments")
    shop.settle_at_once()
    alive(shop, 50)

    with CaptureQueriesContext(connections["journal"]) as queries:
        shop.tick(CHECK)

    assert MarkOfFlow.objects.count() == flows
    assert len([query for query in queries.captured_queries if "SAVEPOINT" not in query["sql"]]) <= 12


def test_a_flow_to_be_checked_is_found_by_an_index(shop: Shop) -> None:
    if connections["journal"].vendor != "sqlite":
        pytest.skip("PostgreSQL goes through a small table")
    with connections["journal"].cursor() as cursor:
        cursor.execute(
            "EXPLAIN QUERY PLAN SELECT id FROM journal_flow WHERE check_at <= '2026-01-01' ORDER BY check_at LIMIT 500"
        )
        plan = " ".join(str(row[3]) for row in cursor.fetchall())

    assert "journal_flow_to_check" in plan


def authorize_payment(*_: Any) -> None:
    """A reaction that forgets what it should announce."""
