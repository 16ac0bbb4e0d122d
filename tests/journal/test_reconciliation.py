"""What the services' rows say of each hour is compared with the journal, and flows that differ are marked."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from choreography.broker.topology import Waiting
from choreography.core.conf import conf
from choreography.operations.accounting import bounds_of
from choreography.storage.tables import ServiceTables
from journal import culprits
from journal.models import Account, Entry, Flow, MarkOfFlow, Outcome
from orders.models import Order
from payments.models import Payment
from payments.sandbox import SandboxGateway
from shipping.models import Shipment
from tests.shop_in_a_box import SERVICES, Shop


@pytest.fixture(autouse=True)
def queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits in the services' queues."""
    monkeypatch.setattr(culprits, "look_at_queue", lambda service: Waiting(0, 1))


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """A shop whose journal is an hour old."""
    shop.place()
    shop.settle_at_once()
    shop.time.advance(3600)
    return shop


def account(shop: Shop, hours: float = 1.2) -> None:
    """Let hours pass, have every service account for the last one that is due, and look for marks."""
    shop.time.advance(hours * 3600)
    for service in SERVICES:
        shop.tick(f"{service}.announce_accounts")
    shop.settle_at_once()
    shop.tick("journal.check_flows")


def ended(shop: Shop, token: str = "tok_approved") -> Order:
    """An order of the current hour that is over."""
    order = shop.place(token)
    shop.settle_at_once()
    return order


def only_mark() -> MarkOfFlow:
    return MarkOfFlow.objects.get(cleared_at=None)


def totals(service: str) -> dict[str, Any]:
    found: dict[str, Any] = Account.objects.filter(service=service).latest("hour").totals
    return found


@pytest.mark.parametrize("token", ["tok_approved", "tok_declined_funds", "tok_timeout", "tok_fails_twice"])
def test_a_shop_that_works_differs_in_nothing(shop: Shop, token: str) -> None:
    ended(shop, token)

    account(shop)

    accounts = Account.objects.all()
    assert [(account.flows, account.running, account.different) for account in accounts] == [(1, 0, 0)] * 3
    assert not MarkOfFlow.objects.exists()


def test_counts_and_sums_are_kept_beside_the_journals(shop: Shop) -> None:
    for _ in range(3):
        ended(shop)
    ended(shop, "tok_declined_funds")

    account(shop)

    assert totals("orders") == {
        "orders orders.order_cancelled": [1, 0, 1, 0],
        "orders orders.order_completed EUR": [3, 7500, 3, 7500],
        "orders orders.order_placed EUR": [4, 10000, 4, 10000],
    }
    assert totals("payments")["provider payments.payment_captured EUR"] == [3, 7500, 3, 7500]
    assert totals("shipping")["shipments shipping.shipment_delivered"] == [3, 0, 3, 0]


def test_an_hour_is_accounted_for_once_per_age(shop: Shop) -> None:
    ended(shop)
    account(shop)
    account(shop, hours=0.01)

    def told() -> int:
        return ServiceTables("orders").outbox.filter(event_type="orders.hour_accounted.v1").count()

    assert told() == 2  # an hour ago, and the same hour of yesterday
    assert len(conf().account_ages) == 2


def test_hours_in_which_no_tick_came_are_accounted_for_later(shop: Shop) -> None:
    account(shop)
    told = Account.objects.filter(service="orders").latest("hour")
    ended(shop)

    account(shop, hours=5)
    account(shop, hours=0.01)

    missed = Account.objects.filter(service="orders", hour__gt=told.hour).order_by("hour")
    assert [it.hour for it in missed] == [told.hour + timedelta(hours=n) for n in range(1, 6)]
    assert [it.flows for it in missed] == [1, 0, 0, 0, 0]


def test_an_event_that_the_journal_has_lost_is_found(shop: Shop) -> None:
    order = ended(shop)
    Entry.objects.filter(flow=str(order.pk), type="payments.payment_captured.v1").delete()

    account(shop)

    mark = only_mark()
    assert (mark.flow, mark.kind, mark.culprit) == (str(order.pk), "different", "payments")
    assert "payments has announced 2 events, the journal has heard 1" in mark.what
    assert "by payments's ledger, payments.payment_captured should have been announced" in mark.what
    assert mark.remedy.startswith("compare the flow with the rows of payments")


def test_an_effect_that_the_journal_has_lost_is_found(shop: Shop) -> None:
    order = ended(shop)
    Outcome.objects.filter(flow=str(order.pk), reaction="shipping.dispatch_shipment").delete()

    account(shop)

    assert only_mark().what == "shipping has handled 2 deliveries, the journal knows of 1"


def test_a_row_changed_by_hand_is_found(shop: Shop) -> None:
    order = ended(shop)
    Payment.objects.filter(pk=order.pk).update(captured=2000)

    account(shop)

    assert only_mark().what == ("payments.payment_captured was announced with amount 2500, payments's ledger has 2000")


def test_a_parcel_that_was_never_delivered_is_found(shop: Shop) -> None:
    order = ended(shop)
    Shipment.objects.filter(pk=order.pk).update(state=Shipment.State.DISPATCHED)

    account(shop)

    assert only_mark().what == ("shipping.shipment_delivered was announced, and shipping's shipments does not have it")


def test_money_that_the_provider_gave_back_by_itself_is_found(shop: Shop) -> None:
    order = ended(shop)
    reference = Payment.objects.get(pk=order.pk).reference
    SandboxGateway().refund(key=f"{order.pk}:by the bank", reference=reference, amount=700)

    account(shop)

    assert only_mark().what == "by payments's provider, payments.payment_refunded should have been announced"


def test_a_flow_that_the_journal_never_heard_of_is_found(shop: Shop) -> None:
    order = ended(shop)
    for model in (Entry, Outcome, Flow):
        model._default_manager.filter(**{"pk" if model is Flow else "flow": str(order.pk)}).delete()

    account(shop)

    flow = Flow.objects.get(pk=str(order.pk))
    assert flow.mark == "different"
    assert "the journal has heard 0" in only_mark().what


def test_a_flow_that_runs_is_compared_when_it_has_ended(shop: Shop) -> None:
    shop.services.remove("shipping")
    order = shop.place()
    shop.settle_at_once()
    shop.services.append("shipping")
    account(shop)
    assert {account.running for account in Account.objects.all()} == {1}

    account(shop, hours=24)

    hour = order.placed_at.replace(minute=0, second=0, microsecond=0)
    of_hour = Account.objects.filter(hour=hour)
    assert [(account.flows, account.running, account.different) for account in of_hour] == [(1, 0, 0)] * 3


def test_the_mark_goes_when_the_difference_has_gone(shop: Shop) -> None:
    order = ended(shop)
    Payment.objects.filter(pk=order.pk).update(captured=2000)
    account(shop)
    Payment.objects.filter(pk=order.pk).update(captured=2500)

    account(shop, hours=24)

    mark = MarkOfFlow.objects.get()
    assert mark.cleared_at is not None
    assert Flow.objects.get(pk=str(order.pk)).mark == ""


def test_hours_before_there_was_a_journal_are_not_compared(shop: Shop) -> None:
    ended(shop)
    Entry.objects.update(recorded_at=shop.time.now() + timedelta(hours=1))

    account(shop)

    assert not Account.objects.exists()
    assert not MarkOfFlow.objects.exists()


def test_many_flows_are_accounted_for_in_parts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choreography.operations.accounting._SUBJECTS", 2)
    orders = [ended(shop) for _ in range(5)]

    account(shop)

    parts = Account.objects.filter(service="payments").order_by("first")
    assert [part.flows for part in parts] == [2, 2, 1]
    hour = orders[0].placed_at.replace(minute=0, second=0, microsecond=0)
    assert parts[0].first == str(bounds_of(hour)[0])


def test_a_provider_that_is_down_is_asked_again(shop: Shop, gateway: Any) -> None:
    ended(shop)
    gateway.down = True
    with pytest.raises(Exception, match="reached"):
        account(shop)
    gateway.down = False

    account(shop, hours=0.01)

    assert {account.different for account in Account.objects.all()} == {0}


def test_a_page_shows_the_accounts(shop: Shop, client: Client) -> None:
    order = ended(shop)
    Payment.objects.filter(pk=order.pk).update(captured=2000)
    account(shop)
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_flow"))
    client.force_login(viewer)

    text = client.get("/reconciliation/").content.decode()

    assert "1 flow differs" in text
    assert "/flows/?state=different" in text
    assert "payment_captured" in text
    assert "€20.00" in text
    assert "€25.00" in text


@pytest.mark.parametrize("before", ["2026-13-45T99:99", "yesterday", "", "2026-01-01T00:00:00"])
def test_an_address_with_a_date_that_is_none_shows_the_latest_hours(
    shop: Shop, admin_client: Client, before: str
) -> None:
    assert admin_client.get("/reconciliation/", {"before": before}).status_code == 200
